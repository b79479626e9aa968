"""How images reach the net: kept in memory and augmented in batches, or streamed through timm's loader.

Both give ``(images, labels)`` on the device: float32 (B, C, S, S), normalised, and int64 (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from vnas.config import TrainingConfig
from vnas.errors import ConfigError
from vnas.training.augment import BatchAugmentation, crop_share, normalise, resize, statistics
from vnas.training.samples import CHANNELS, Samples
from vnas.training.splits import Indices

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


class _StreamedSet(torch.utils.data.Dataset[tuple[object, int]]):
    """What timm's create_loader reads; it sets ``transform`` to timm's augmentation."""

    def __init__(self, samples: Samples, indices: Indices, before: Callable[[Image.Image], Image.Image] | None) -> None:
        self._samples = samples
        self._indices = indices
        self._before = before
        self.transform: Callable[[Image.Image], object] | None = None

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[object, int]:
        index = int(self._indices[position])
        image = self._samples.image(index)
        if self._before is not None:
            image = self._before(image)
        label = int(self._samples.targets[index])
        return (image if self.transform is None else self.transform(image)), label


class _Resize:
    """A class, not a closure, so that loader processes that are spawned can be sent it."""

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size

    def __call__(self, image: Image.Image) -> Image.Image:
        return resize(image, self._image_size)


class StreamingLoader:
    """Batches through timm's create_loader, with worker processes and a prefetching transfer."""

    pipeline: PipelineName = "streaming"

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]], reason: str) -> None:
        self._batches = batches
        self.reason = reason

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._batches)

    def __iter__(self) -> Batches:
        """One pass."""
        return iter(self._batches)


def streaming_training_loader(
    samples: Samples,
    indices: Indices,
    image_size: int,
    training: TrainingConfig,
    device: torch.device,
    workers: int,
    reason: str,
) -> StreamingLoader:
    """Training batches with timm's augmentations; random numbers come from the global streams.

    Raises:
        ConfigError: a RandAugment text that timm does not know, or two options that exclude each other.
    """
    from timm.data.loader import create_loader

    if training.rand_augment is not None and not training.rand_augment.startswith("rand-"):
        raise ConfigError(
            f"training.rand_augment = {training.rand_augment!r} must start with 'rand-', "
            "for example 'rand-m7-mstd0.5-inc1'"
        )
    if training.random_resized_crop and training.crop_padding:
        raise ConfigError(
            "training.random_resized_crop already moves the image: set training.crop_padding = 0, or leave it out"
        )
    before: list[Callable[[Image.Image], Image.Image]] = []
    if not training.random_resized_crop:
        before.append(_Resize(image_size))
        if training.crop_padding:
            before.append(transforms.RandomCrop(image_size, padding=training.crop_padding))
    channels = CHANNELS[samples.mode]
    mean, std = statistics(channels)
    whole = None if training.random_resized_crop else (1.0, 1.0)
    streamed: Any = _StreamedSet(samples, indices, transforms.Compose(before) if before else None)
    jitter: Any = training.color_jitter or None
    try:
        batches = create_loader(
            streamed,
            input_size=(channels, image_size, image_size),
            batch_size=min(training.batch_size, len(indices)),
            is_training=True,
            scale=whole,
            ratio=whole,
            hflip=0.5 if training.flip else 0.0,
            color_jitter=jitter,
            auto_augment=training.rand_augment,
            re_prob=training.random_erasing,
            re_mode="pixel",
            mean=mean,
            std=std,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            device=device,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(f"training.rand_augment = {training.rand_augment!r} is not known to timm: {error}") from error
    return StreamingLoader(batches, reason)


def streaming_evaluation_loader(
    samples: Samples,
    indices: Indices,
    image_size: int,
    batch_size: int,
    device: torch.device,
    workers: int,
    reason: str,
) -> StreamingLoader:
    """Evaluation batches: in order, every image once, resized and cropped at the centre."""
    from timm.data.loader import create_loader

    channels = CHANNELS[samples.mode]
    mean, std = statistics(channels)
    streamed: Any = _StreamedSet(samples, indices, None)
    batches = create_loader(
        streamed,
        input_size=(channels, image_size, image_size),
        batch_size=batch_size,
        crop_pct=crop_share(image_size),
        interpolation="bilinear",
        mean=mean,
        std=std,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
    )
    return StreamingLoader(batches, reason)
