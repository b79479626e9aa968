"""A data source cut into training, validation and test sets, and the loaders over them."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from vnas.config import DataConfig, TrainingConfig
from vnas.errors import DataError
from vnas.training.images.augment import BatchAugmentation, statistics
from vnas.training.images.cache import Cache, cache_folder
from vnas.training.images.decoding import decoded
from vnas.training.images.free_memory import free_mib_of_all
from vnas.training.images.loaders import (
    Loader,
    PipelineName,
    ResidentEvaluationLoader,
    ResidentLoader,
    TrainingLoader,
    check_recipe,
    choose_pipeline,
)
from vnas.training.images.samples import CHANNELS, Samples
from vnas.training.images.sources import open_source
from vnas.training.images.splits import Indices, require_same_classes, stratified_cut
from vnas.training.images.streaming import streaming_evaluation_loader, streaming_training_loader

Split = Literal["train", "validation", "test"]
_EVALUATION_BATCH = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """A source with its three sets. Images are decoded when a loader first asks for them, the test set's too.

    Attributes:
        config: what was asked for.
        class_names: name of each class, in the order of the labels.
        in_chans: channels of an image: 1 for the digits and torchvision's grey sets, else 3.
        native_size: (height, width) of the first training image, in pixels.
        counts: images in each split.
        splits: where each split came from: given by the source, or cut from the training set and how.
        fingerprint: changes when the images, the labels or the cut do.
    """

    config: DataConfig
    class_names: tuple[str, ...]
    in_chans: int
    native_size: tuple[int, int]
    counts: Mapping[Split, int]
    splits: Mapping[Split, str]
    fingerprint: str
    _sets: Mapping[Split, tuple[Samples, Indices]] = field(repr=False)
    _cache: Cache | None = field(repr=False)
    _resident: OrderedDict[tuple[Split, int, torch.device], tuple[Tensor, Tensor]] = field(
        default_factory=OrderedDict, repr=False
    )
    # Free memory of the device when a set was first asked for: all runs of a search go the same way.
    _free_mib: dict[tuple[Split, int, torch.device], float | None] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str:
        """The text that named the source."""
        return self.config.source

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def training_loader(
        self,
        training: TrainingConfig,
        image_size: int,
        *,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] | None = None,
    ) -> TrainingLoader:
        """Augmented batches of the training set, all of one size.

        Args:
            training: the recipe: batch size and augmentations. Mixup and cutmix are the training loop's.
            image_size: side of the images, in pixels.
            seed: of order and augmentation in the resident pipeline; the streaming one draws from the global streams.
            device: where the batches are wanted.
            shard: rank of this process and number of processes: each gives its equal part of every batch. The parts of
                the resident pipeline's make up what a single process would give.

        Raises:
            ConfigError: an augmentation that the pipeline or the image size does not allow, or a batch of one.
            DataError: an image cannot be decoded.
        """
        check_recipe(training, image_size)
        pipeline, reason = self._pipeline("train", image_size, device, training)
        samples, indices = self._sets["train"]
        if pipeline == "streaming":
            return streaming_training_loader(
                samples, indices, image_size, training, device, self.config.workers, reason, seed=seed, shard=shard
            )
        mean, std = statistics(self.in_chans)
        augmentation = BatchAugmentation(
            flip=training.flip is True,
            crop_padding=training.crop_padding,
            crop_fill=training.crop_fill,
            cutout=training.cutout,
            random_erasing=training.random_erasing,
            mean=mean,
            std=std,
        )
        images, labels = self._in_memory("train", image_size, device)
        alternating = training.flip == "alternating"
        return ResidentLoader(
            images, labels, training.batch_size, augmentation, seed, reason, alternating=alternating, shard=shard
        )

    def loader(
        self, split: Split, image_size: int, *, device: torch.device, batch_size: int = _EVALUATION_BATCH
    ) -> Loader:
        """Every image of a split once, in order and not augmented.

        Args:
            split: ``train``, ``validation`` or ``test``; the test set is for the very end.
            image_size: side of the images, in pixels.
            device: where the batches are wanted.
            batch_size: images in a batch; the last one may be smaller.

        Raises:
            DataError: an image cannot be decoded.
        """
        pipeline, reason = self._pipeline(split, image_size, device, None)
        if pipeline == "resident":
            return ResidentEvaluationLoader(*self._in_memory(split, image_size, device), batch_size, reason)
        samples, indices = self._sets[split]
        return streaming_evaluation_loader(
            samples, indices, image_size, batch_size, device, self.config.workers, reason
        )

    def _mib(self, split: Split, image_size: int) -> float:
        return self.counts[split] * self.in_chans * image_size**2 / 2**20

    def _pipeline(
        self, split: Split, image_size: int, device: torch.device, training: TrainingConfig | None
    ) -> tuple[PipelineName, str]:
        key = (split, image_size, device)
        if key not in self._free_mib:
            self._free_mib[key] = free_mib_of_all(device)
        mib, limit = self._mib(split, image_size), self.config.resident_limit_mib
        return choose_pipeline(self.config.pipeline, mib, limit, training, self._free_mib[key])

    def _in_memory(self, split: Split, image_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (split, image_size, device)
        if key not in self._resident:
            samples, indices = self._sets[split]
            images = decoded(samples, indices, image_size, self._cache, self.config.resident_limit_mib).to(device)
            labels = torch.from_numpy(samples.targets[indices]).to(device)
            self._resident[key] = images, labels
            self._forget_beyond_the_limit()
        self._resident.move_to_end(key)
        return self._resident[key]

    def _forget_beyond_the_limit(self) -> None:
        # A space may vary the image size; the sets of one size must stay, so that a run can always go on.
        newest = next(reversed(self._resident))[1]
        for old in [key for key in self._resident if key[1] != newest]:
            if sum(self._mib(split, size) for split, size, _ in self._resident) <= self.config.resident_limit_mib:
                return
            del self._resident[old]


def open_data(config: DataConfig | str = "digits", *, say: Callable[[str], None] | None = None) -> Data:
    """Open a source and cut the sets that it does not have itself.

    A validation set is cut from the training set, class by class and by a fixed seed, unless the source has one
    beside its test set. A test set is cut likewise where the source has none.

    Args:
        config: the source, the shares and the seed; or the source alone.
        say: told, in a line each, of what becomes of the decoded images: kept for the next run, found damaged, in the
            way of others. By default, only what went wrong goes to the log.

    Raises:
        DataError: the source is missing, empty, unreadable, or its classes do not agree.
        MissingExtraError: an optional package is needed; the message holds the pip line.
    """
    if isinstance(config, str):
        config = DataConfig(source=config)
    source = open_source(config.source, config.resident_limit_mib)
    train = source.train
    classes = train.class_names
    if len(classes) < 2:
        raise DataError(
            f"{config.source!r} has a single class, {classes[0]!r}; to tell classes apart takes two or more"
        )
    kept: Indices = np.arange(len(train.targets), dtype=np.int64)
    sets: dict[Split, tuple[Samples, Indices]] = {}
    notes: dict[Split, str] = {}
    found: dict[Split, tuple[Samples | None, float]] = {
        "test": (source.test, config.test_share),
        "validation": (source.validation, config.validation_share),
    }
    for split, (given, share) in found.items():
        if given is not None:
            require_same_classes(classes, given.class_names, config.source, source.names[split])
            sets[split] = given, np.arange(len(given.targets), dtype=np.int64)
            notes[split] = f"given: {source.names[split]}"
        else:
            kept, held_out = stratified_cut(train.targets, kept, share, config.split_seed, classes, split)
            sets[split] = train, held_out
            notes[split] = f"cut from the training set ({share:.3g} of each class, seed {config.split_seed})"
    sets["train"] = train, kept
    notes["train"] = f"given: {source.names['train']}" + (
        ", less what was cut" if len(kept) < len(train.targets) else ""
    )
    first = train.image(int(kept[0]))
    return Data(
        config=config,
        class_names=classes,
        in_chans=CHANNELS[train.mode],
        native_size=(first.height, first.width),
        counts=MappingProxyType({split: len(sets[split][1]) for split in get_args(Split)}),
        splits=MappingProxyType({split: notes[split] for split in get_args(Split)}),
        fingerprint=_fingerprint(classes, sets),
        _sets=MappingProxyType(sets),
        _cache=Cache(cache_folder(), config.cache_limit_mib, say or _log.info, say or _log.warning)
        if config.cache
        else None,
    )


def _fingerprint(classes: tuple[str, ...], sets: Mapping[Split, tuple[Samples, Indices]]) -> str:
    digest = hashlib.sha256("\0".join(classes).encode())
    for seen in {id(samples): samples for samples, _ in sets.values()}.values():
        digest.update(seen.fingerprint().encode())
    for split in get_args(Split):
        digest.update(sets[split][1].tobytes())
    return digest.hexdigest()[:16]
