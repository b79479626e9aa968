"""The pipeline for sets that do not fit in memory and for augmentations of one image at a time: timm's loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torchvision import transforms

from vnas.config import TrainingConfig
from vnas.errors import ConfigError, ResumeError
from vnas.training.images.augment import cut_out, cutout_centres, statistics
from vnas.training.images.decoding import crop_share, resize
from vnas.training.images.loaders import Batches, PipelineName
from vnas.training.images.samples import CHANNELS, Samples
from vnas.training.images.splits import Indices
from vnas.training.seeding import derived_seed


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

    def __init__(self, batches: Any, reason: str) -> None:
        self._batches = batches
        self.reason = reason

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._batches)

    def __iter__(self) -> Batches:
        """One pass."""
        return iter(self._batches)


class StreamingTrainingLoader(StreamingLoader):
    """The same for training; its loader processes are ahead of it, so that it can go on at the end of a pass only."""

    def __init__(self, batches: Any, reason: str, cutout: int, generator: torch.Generator, *, sharded: bool) -> None:
        super().__init__(batches, reason)
        self._cutout = cutout
        self._random = generator
        self._sharded = sharded
        self._passes = self._given = 0

    def __iter__(self) -> Batches:
        """One pass in a new random order."""
        self._passes, self._given = self._passes + 1, 0
        if self._sharded:
            self._batches.sampler.set_epoch(self._passes)
        for images, labels in self._batches:
            if self._cutout:
                last = images.permute(0, 2, 3, 1)  # (B, H, W, C)
                centres = cutout_centres(len(last), last.shape[1], last.shape[2], self._random)
                cut_out(last, centres, self._cutout)  # in place: the same memory
            self._given += 1
            yield images, labels

    def state(self) -> dict[str, Any]:
        """See :class:`TrainingLoader`; not in it: the global streams, which timm draws from."""
        return {"random": self._random.get_state(), "passes": self._passes, "given": self._given}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See :class:`vnas.training.images.loaders.TrainingLoader`.

        Raises:
            ResumeError: the state is of the middle of a pass.
        """
        self._passes, self._given = state["passes"], state["given"]
        if 0 < self._given < len(self):
            raise ResumeError(
                f"the streaming pipeline cannot go on after {self._given} of {len(self)} batches of an epoch, only "
                "between two epochs; start the run anew"
            )
        self._random.set_state(state["random"])


def streaming_training_loader(
    samples: Samples,
    indices: Indices,
    image_size: int,
    training: TrainingConfig,
    device: torch.device,
    workers: int,
    reason: str,
    *,
    seed: int,
    shard: tuple[int, int] | None = None,
) -> StreamingTrainingLoader:
    """Training batches with timm's augmentations.

    Args:
        samples: the set that the images are in.
        indices: of the images.
        image_size: S.
        training: the recipe.
        device: where the batches are wanted.
        workers: loader processes.
        reason: for this pipeline.
        seed: of cutout, and of the order where there are several processes; all else comes from the global streams.
        shard: rank of this process and number of processes, which torch.distributed must know of: each decodes its
            equal part of every pass.

    Raises:
        ConfigError: a RandAugment text that timm does not know, or two options that exclude each other.
    """
    from timm.data.loader import create_loader

    _check_rand_augment(training.rand_augment)
    if training.random_resized_crop and training.crop_padding:
        raise ConfigError(
            "training.random_resized_crop already moves the image: set training.crop_padding = 0, or leave it out"
        )
    before: list[Callable[[Image.Image], Image.Image]] = []
    if not training.random_resized_crop:
        before.append(_Resize(image_size))
        if training.crop_padding:
            padding_mode = "reflect" if training.crop_fill == "reflect" else "constant"
            before.append(transforms.RandomCrop(image_size, padding=training.crop_padding, padding_mode=padding_mode))
    channels = CHANNELS[samples.mode]
    mean, std = statistics(channels)
    whole = None if training.random_resized_crop else (1.0, 1.0)
    streamed: Any = _StreamedSet(samples, indices, transforms.Compose(before) if before else None)
    jitter: Any = training.color_jitter or None
    world = 1 if shard is None else shard[1]
    batches: Any = create_loader(
        streamed,
        input_size=(channels, image_size, image_size),
        batch_size=min(training.batch_size, len(indices)) // world,
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
        distributed=shard is not None,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        device=device,
    )
    if shard is not None:
        batches.sampler.seed = seed
    random = torch.Generator(device).manual_seed(derived_seed(seed, "cutout"))
    return StreamingTrainingLoader(batches, reason, training.cutout, random, sharded=shard is not None)


def _check_rand_augment(text: str | None) -> None:
    from timm.data.auto_augment import rand_augment_transform

    if text is None:
        return
    example = "for example 'rand-m7-mstd0.5-inc1'"
    if not text.startswith("rand-"):
        raise ConfigError(f"training.rand_augment = {text!r} must start with 'rand-', {example}")
    try:
        rand_augment_transform(text, {})
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"training.rand_augment = {text!r} is not known to timm ({error}); write {example}"
        ) from error


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
