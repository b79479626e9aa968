"""How images reach the net: the choice between two pipelines, and the one that keeps everything in memory.

Both pipelines give ``(images, labels)`` on the device: float32 (B, C, S, S), normalised, and int64 (B,).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from vnas.config import TrainingConfig
from vnas.errors import ConfigError
from vnas.training.images.augment import BatchAugmentation, normalise, statistics
from vnas.training.seeding import derived_seed

PipelineName = Literal["resident", "streaming"]
Batches = Iterator[tuple[Tensor, Tensor]]

# Options that work on one PIL image at a time, so they need the streaming pipeline.
_PIL_ONLY = ("rand_augment", "color_jitter", "random_resized_crop")
# Share of the device's free memory that a resident set may take: the net and its activations need the rest.
_SHARE_OF_FREE = 0.5


class Loader(Protocol):
    """Batches of one split.

    Attributes:
        pipeline: ``resident`` or ``streaming``.
        reason: why that one, in words.
    """

    pipeline: PipelineName
    reason: str

    def __len__(self) -> int:
        """Batches in one pass."""
        ...

    def __iter__(self) -> Batches:
        """One pass; a training loader gives another order and augmentation each time."""
        ...


class TrainingLoader(Loader, Protocol):
    """Batches of the training set, which can be gone on with in another process."""

    def state(self) -> dict[str, Any]:
        """Where it is between two batches, as tensors and plain values; it stays as it is when the loader goes on."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on as the loader that :meth:`state` was taken from: the next pass gives what was left of its pass.

        Where nothing was left, the next pass is a new one.
        """
        ...


def choose_pipeline(
    asked: Literal["auto", "resident", "streaming"],
    mib: float,
    limit_mib: int,
    training: TrainingConfig | None,
    free_mib: float | None = None,
) -> tuple[PipelineName, str]:
    """The pipeline for a set of a size, and the reason in words.

    Args:
        asked: what the configuration says.
        mib: size of the decoded set.
        limit_mib: the largest set that ``auto`` keeps in memory.
        training: the recipe, or None for evaluation.
        free_mib: free memory of the device, of which the set may take half; None where that is not known.

    Raises:
        ConfigError: the pipeline does not have an augmentation that the recipe asks for.
    """
    single = [name for name in _PIL_ONLY if training is not None and getattr(training, name)]
    if asked == "resident":
        if single:
            raise ConfigError(
                f"data.pipeline = 'resident' can not do training.{single[0]}, which works on one image at a time; "
                f"set data.pipeline to 'streaming' or 'auto', or leave training.{single[0]} out"
            )
        return "resident", "asked for by data.pipeline"
    reason = None
    if asked == "streaming":
        reason = "asked for by data.pipeline"
    elif single:
        reason = f"training.{single[0]} works on one image at a time"
    elif mib > limit_mib:
        reason = f"{mib:,.0f} MiB decoded is more than data.resident_limit_mib = {limit_mib}"
    elif free_mib is not None and mib > _SHARE_OF_FREE * free_mib:
        reason = f"{mib:,.0f} MiB decoded is more than half of the {free_mib:,.0f} MiB that the device has free"
    if reason is None:
        return "resident", f"{mib:,.1f} MiB decoded fits data.resident_limit_mib = {limit_mib}"
    if training is not None and training.flip == "alternating":
        raise ConfigError(
            f"training.flip = 'alternating' needs the resident pipeline, but the images stream: {reason}; "
            "set training.flip = true"
        )
    return "streaming", reason


def check_recipe(training: TrainingConfig, image_size: int) -> None:
    """Raise ConfigError where a recipe cannot be followed with images of a size, in any pipeline."""
    if training.batch_size < 2:
        raise ConfigError("training.batch_size = 1 leaves batch normalisation nothing to average; use at least 2")
    reflects = training.crop_fill == "reflect"
    for name, value, limited in (("crop_padding", training.crop_padding, reflects), ("cutout", training.cutout, True)):
        if limited and value >= image_size:
            what = "crop_fill = 'reflect'" if name == "crop_padding" else name
            raise ConfigError(
                f"training.{name} = {value} is too much for images of {image_size} px; with training.{what} it may be "
                f"at most {image_size - 1}"
            )


class ResidentLoader:
    """Training batches from images that are all in memory, the device's own where it has one."""

    pipeline: PipelineName = "resident"

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        augmentation: BatchAugmentation,
        seed: int,
        reason: str,
        *,
        alternating: bool = False,
        shard: tuple[int, int] | None = None,
    ) -> None:
        """Begin before the first pass.

        Args:
            images: uint8, (N, C, S, S), channels last.
            labels: (N,).
            batch_size: over all processes.
            augmentation: of the batches.
            seed: of order and augmentation; the same in all processes.
            reason: for this pipeline.
            alternating: mirror each image in every second pass, one half of them in the odd passes and the other in
                the even ones. Source: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024, section 3.6.
            shard: rank of this process and number of processes: each takes its equal part of every batch.
        """
        device = images.device
        self._images = images.permute(0, 2, 3, 1)  # (N, S, S, C)
        self._labels = labels
        rank, world = shard or (0, 1)
        self._batch_size = min(batch_size, len(images)) // world * world
        self._part = slice(rank, None, world)
        self._augmentation = augmentation
        self._order = torch.Generator().manual_seed(seed)
        self._random = torch.Generator(device).manual_seed(seed)
        self._odd: Tensor | None = None  # whether an image is mirrored in the odd passes, (N,)
        if alternating:
            halves = torch.Generator().manual_seed(derived_seed(seed, "alternating flip"))
            self._odd = (torch.rand(len(images), generator=halves) < 0.5).to(device)
        self._before_pass = self._order.get_state()
        self._passes = self._given = 0
        self._goes_on = False
        self.reason = reason

    def __len__(self) -> int:
        """Full batches in one pass; the images of a last, smaller one sit this pass out."""
        return len(self._images) // self._batch_size

    def __iter__(self) -> Batches:
        """One pass in a new random order."""
        if self._goes_on:
            self._goes_on = False
        else:
            self._before_pass = self._order.get_state()
            self._passes, self._given = self._passes + 1, 0
        order = torch.randperm(len(self._images), generator=self._order).to(self._images.device)
        batches = order[: len(self) * self._batch_size].view(-1, self._batch_size)
        for chosen in batches[self._given :]:
            mirrored = None if self._odd is None else self._odd[chosen] ^ (self._passes % 2 == 0)
            images = self._augmentation(self._images, chosen, self._random, mirrored=mirrored, part=self._part)
            self._given += 1
            yield images, self._labels[chosen[self._part]]

    def state(self) -> dict[str, Any]:
        """See :class:`TrainingLoader`."""
        return {
            "order": self._before_pass,
            "augmentation": self._random.get_state(),
            "passes": self._passes,
            "given": self._given,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`TrainingLoader`."""
        self._before_pass, self._passes, self._given = state["order"], state["passes"], state["given"]
        self._order.set_state(self._before_pass)
        self._random.set_state(state["augmentation"])
        self._goes_on = 0 < self._given < len(self)
        if self._given == len(self):
            torch.randperm(len(self._images), generator=self._order)  # of the pass that is over


class ResidentEvaluationLoader:
    """Evaluation batches from images that are all in memory: in order, every image once, not augmented."""

    pipeline: PipelineName = "resident"

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, reason: str) -> None:
        self._images = images  # uint8 (N, C, S, S), channels last
        self._labels = labels  # (N,)
        self._batch_size = batch_size
        self.reason = reason

    def __len__(self) -> int:
        """Batches in one pass, a last smaller one included."""
        return -(-len(self._images) // self._batch_size)

    def __iter__(self) -> Batches:
        """One pass."""
        mean, std = statistics(self._images.shape[1])
        for start in range(0, len(self._images), self._batch_size):
            chosen = slice(start, start + self._batch_size)
            pixels = self._images[chosen].permute(0, 2, 3, 1)  # (B, S, S, C)
            # Not channels last: the fused net is judged with its input as it will be deployed.
            yield normalise(pixels, mean, std).permute(0, 3, 1, 2).contiguous(), self._labels[chosen]
