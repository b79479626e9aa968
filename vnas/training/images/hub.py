"""Sources behind optional packages: Hugging Face data sets, webdataset and TFDS, through timm's readers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vnas.errors import DataError, MissingExtraError
from vnas.training.images.folders import TEST_NAMES, VALIDATION_NAMES
from vnas.training.images.samples import ArraySamples, IndexedSamples, Samples, Source

_MODULES = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}
_PACKAGES = {"datasets": "datasets", "webdataset": "webdataset", "tensorflow_datasets": "tensorflow-datasets"}


def _require(source: str, prefix: str) -> None:
    module = _MODULES[prefix]
    if importlib.util.find_spec(module) is None:
        package = _PACKAGES[module]
        raise MissingExtraError(f"{source!r} is read with the package {package}; type: pip install {package}")


def open_hub(source: str, rest: str) -> Source:
    """Open ``hfds/NAME[:CACHE]``: its train split, and its test and validation splits where it has them.

    Raises:
        DataError: the data set cannot be loaded.
        MissingExtraError: the package ``datasets`` is not installed.
    """
    _require(source, "hfds")
    from timm.data.dataset_factory import create_dataset

    name, _, cache = rest.partition(":")

    def read(split: str) -> Any:
        try:
            return create_dataset(f"hfds/{name}", root=cache or None, split=split).reader
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(f"{source!r}: its {split} split cannot be loaded ({error})") from error

    train = read("train")
    names: dict[str, str] = train.class_to_idx or {}
    labels = _labels(train)
    classes = sorted(names, key=names.__getitem__) or [str(label) for label in range(max(labels) + 1)]
    known = set(train.dataset.info.splits or ())

    def first(splits: tuple[str, ...]) -> tuple[str, Samples] | None:
        for split in splits:
            if split in known:
                reader = read(split)
                labels = _labels(reader)
                # A test set without its labels has -1 for each, and nothing can be judged on it.
                if min(labels) >= 0:
                    return split, IndexedSamples(reader, labels, classes, "RGB", source)
        return None

    return _source(IndexedSamples(train, labels, classes, "RGB", source), first)


def _labels(reader: Any) -> list[int]:
    # The whole column at once, without the images.
    return [int(label) for label in reader.dataset[reader.label_key]]


def _source(train: Samples, first: Callable[[tuple[str, ...]], tuple[str, Samples] | None]) -> Source:
    test, validation = first(TEST_NAMES), first(VALIDATION_NAMES)
    if test is None:
        test, validation = validation, None
    names = {"train": "train"} | {which: one[0] for which, one in (("test", test), ("validation", validation)) if one}
    return Source(train, validation and validation[1], test and test[1], names)


def open_iterable(source: str, prefix: str, rest: str, memory_limit_mib: int) -> Source:
    """Read a source that has no index from end to end, and order its samples by a hash of their content.

    The order in which shards arrive then does not matter to the splits that are cut.

    Raises:
        DataError: the source cannot be read, or takes more memory than allowed once decoded.
        MissingExtraError: the package that reads it is not installed.
    """
    _require(source, prefix)
    name, _, cache = ("", "", rest) if prefix == "wds" else rest.partition(":")
    if prefix == "wds" and "://" not in rest and not Path(rest).is_dir():
        raise DataError(f"{source!r}: there is no folder {rest!r}; it must hold the shards and their _info.json")
    path = f"{prefix}/{name}"
    train, classes = _materialise(source, path, cache, "train", memory_limit_mib)

    def first(names: tuple[str, ...]) -> tuple[str, Samples] | None:
        for split in names:
            try:
                return split, _materialise(source, path, cache, split, memory_limit_mib, classes)[0]
            except _NoSuchSplitError:
                continue
        return None

    return _source(train, first)


class _NoSuchSplitError(DataError):
    pass


def _materialise(
    source: str, path: str, cache: str, split: str, memory_limit_mib: int, classes: tuple[str, ...] | None = None
) -> tuple[ArraySamples, tuple[str, ...]]:
    from timm.data.dataset_factory import create_dataset

    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    size = 0
    try:
        dataset = create_dataset(path, root=cache or None, split=split, is_training=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _NoSuchSplitError(f"{source!r}: its {split} split cannot be opened ({error})") from error
    for image, target in dataset:
        array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image, dtype=np.uint8)
        size += array.nbytes
        if size > memory_limit_mib * 2**20:
            raise DataError(
                f"{source!r} takes more than data.resident_limit_mib = {memory_limit_mib} MiB once decoded; a source "
                "without an index is kept in memory, so raise the limit or use a folder or tar of class folders"
            )
        images.append(array)
        labels.append(int(target))
    if not images:
        raise DataError(f"{source!r}: its {split} split holds no images")
    keys = [
        hashlib.sha256(array.tobytes() + bytes(str(y), "ascii")).digest()
        for array, y in zip(images, labels, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if classes is None:
        to_index: dict[str, int] = getattr(dataset.reader, "class_to_idx", None) or {}
        classes = tuple(sorted(to_index, key=to_index.__getitem__)) or tuple(str(n) for n in range(max(labels) + 1))
    targets = np.asarray([labels[index] for index in order], dtype=np.int64)
    return ArraySamples([images[index] for index in order], targets, classes, "RGB"), classes
