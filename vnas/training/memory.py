"""A device that runs out of memory: the batch in halves, quarters, ..., for the rest of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from vnas.errors import TrainingError
from vnas.profiler.runtimes.failures import memory_ran_out

T = TypeVar("T")

LEAST_IMAGES = 2
"""In a part, in training: a batch norm has nothing to average over in a single image whose map is one pixel."""


class Portions:
    """Into how many parts a batch is cut so that it fits.

    Cutting does not change which images a step sees, how they are augmented, or what its gradient is a mean over. It
    changes what batch norms average over, and which units dropout leaves out.

    Attributes:
        count: parts of a batch; 1 while all goes well.
        notes: what was found out, in words.
    """

    def __init__(self, device: torch.device, *, least: int | None, notes: list[str] | None = None) -> None:
        """Begin with whole batches.

        Args:
            device: whose memory it is.
            least: images that a part must have: ``LEAST_IMAGES`` in training, else 1; None forbids
                to cut a batch.
            notes: gets a line at each cut; a list of its own by default.
        """
        self._device = device
        self._least = least
        self.count = 1
        self.notes: list[str] = [] if notes is None else notes

    def attempt(self, images: int, when: str, work: Callable[[int], T], undo: Callable[[], None] | None = None) -> T:
        """Do a piece of work on a batch, in twice as many parts each time that memory runs out.

        Args:
            images: in the batch.
            when: for the note, such as ``from step 7 on``.
            work: takes the number of parts.
            undo: makes what a failed attempt has left undone.

        Raises:
            TrainingError: the smallest parts do not fit either.
        """
        while True:
            try:
                return work(self.count)
            except RuntimeError as error:
                if not memory_ran_out(error):
                    raise
                if self._least is None:
                    raise TrainingError(
                        f"out of memory on {self._device} with {images} images at a time; processes that share a batch "
                        "cannot cut it: make training.batch_size smaller"
                    ) from error
                if images // (2 * self.count) < self._least:
                    raise TrainingError(
                        f"out of memory on {self._device} with {-(-images // self.count)} images at a time, which "
                        "cannot be cut further: the net or its images are too large for this device"
                    ) from error
            # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
            self._halve(images, when)
            if undo is not None:
                undo()

    def largest(self, images: int) -> int | None:
        """Images in the largest part of a batch; None while batches are whole."""
        return None if self.count == 1 else -(-images // self.count)

    def _halve(self, images: int, when: str) -> None:
        self.count *= 2
        self.notes.append(
            f"out of memory on {self._device}: {when}, batches of {images} are cut into {self.count} parts of "
            f"{-(-images // self.count)} images, whose gradients are added up; a batch norm averages over a part"
        )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
