"""How images reach the net: the choice between two pipelines, and the one that keeps everything in memory.

Both pipelines give ``(images, labels)`` on the device: float32 (B, C, S, S), normalised, and int64 (B,).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from vnas.config import TrainingConfig
from vnas.errors import ConfigError
from vnas.training.augment import BatchAugmentation, normalise, statistics

PipelineName = Literal["resident", "streaming"]
Batches = Iterator[tuple[Tensor, Tensor]]

# Options that work on one PIL image at a time, so they need the streaming pipeline.
_PIL_ONLY = ("rand_augment", "color_jitter", "random_resized_crop")


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


def choose_pipeline(
    asked: Literal["auto", "resident", "streaming"], mib: float, limit_mib: int, training: TrainingConfig | None
) -> tuple[PipelineName, str]:
    """The pipeline for a set of a size, and the reason in words.

    Args:
        asked: what the configuration says.
        mib: size of the decoded set.
        limit_mib: the largest set that ``auto`` keeps in memory.
        training: the recipe, or None for evaluation.

    Raises:
        ConfigError: the resident pipeline is asked for together with an augmentation that it does not have.
    """
    single = [name for name in _PIL_ONLY if training is not None and getattr(training, name)]
    if asked == "resident":
        if single:
            raise ConfigError(
                f"data.pipeline = 'resident' can not do training.{single[0]}, which works on one image at a time; "
                f"set data.pipeline to 'streaming' or 'auto', or leave training.{single[0]} out"
            )
        return "resident", "asked for by data.pipeline"
    if asked == "streaming":
        return "streaming", "asked for by data.pipeline"
    if single:
        return "streaming", f"training.{single[0]} works on one image at a time"
    if mib > limit_mib:
        return "streaming", f"{mib:,.0f} MiB decoded is more than data.resident_limit_mib = {limit_mib}"
    return "resident", f"{mib:,.1f} MiB decoded fits data.resident_limit_mib = {limit_mib}"


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
    ) -> None:
        self._images = images  # uint8 (N, C, S, S)
        self._labels = labels  # (N,)
        self._batch_size = min(batch_size, len(images))
        self._augmentation = augmentation
        self._order = torch.Generator().manual_seed(seed)
        self._random = torch.Generator(images.device).manual_seed(seed)
        self.reason = reason

    def __len__(self) -> int:
        """Full batches in one pass; the images of a last, smaller one sit this pass out."""
        return len(self._images) // self._batch_size

    def __iter__(self) -> Batches:
        """One pass in a new random order."""
        order = torch.randperm(len(self._images), generator=self._order).to(self._images.device)
        for chosen in order[: len(self) * self._batch_size].view(-1, self._batch_size):
            yield self._augmentation(self._images[chosen], self._random), self._labels[chosen]


class ResidentEvaluationLoader:
    """Evaluation batches from images that are all in memory: in order, every image once, not augmented."""

    pipeline: PipelineName = "resident"

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, reason: str) -> None:
        self._images = images  # uint8 (N, C, S, S)
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
            yield normalise(self._images[chosen], mean, std), self._labels[chosen]
