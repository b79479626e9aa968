"""Labelled images of one split, by index: the one shape that every source is brought to."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vnas.errors import DataError
from vnas.training.images.splits import Indices

Mode = Literal["L", "RGB"]
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3}

# What PIL raises for bytes that are no image, or not all of one.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Images whose pixels enter the fingerprint of a source that has no file names and sizes to tell it by.
_PROBES = 16


class Samples(Protocol):
    """Labelled images of one split.

    Attributes:
        class_names: name of each class, in the order of the labels.
        targets: label of every image, (N,).
        mode: PIL mode that images come in.
    """

    class_names: tuple[str, ...]
    targets: Indices
    mode: Mode

    def image(self, index: int) -> Image.Image:
        """The image, decoded.

        Raises:
            DataError: it cannot be decoded; the message names it.
        """
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the images or labels do."""
        ...

    def content(self) -> str | None:
        """A hash of all images, in their order, as far as that costs less than to decode them; else None."""
        ...


class FileSamples:
    """Images of a folder or a tar of class folders, read by timm's readers."""

    mode: Mode = "RGB"

    def __init__(self, reader: Any, root: Path) -> None:
        self._reader = reader
        self._root = root
        self._process = os.getpid()
        self._is_tar = hasattr(reader, "tar_state")
        if self._is_tar:
            weakref.finalize(self, _close_archives, reader)
        classes: dict[str, int] = reader.class_name_to_idx if self._is_tar else reader.class_to_idx
        self.class_names = tuple(sorted(classes, key=classes.__getitem__))
        labels = reader.targets if self._is_tar else [target for _, target in reader.samples]
        self.targets: Indices = np.asarray(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        """Path of the image inside the folder or tar."""
        if self._is_tar:
            return str(self._reader.samples[index][0].path).removeprefix("./")
        return str(self._reader.samples[index][0]).removeprefix(f"{self._root}").lstrip("/")

    def image(self, index: int) -> Image.Image:
        """The image as RGB; see :class:`Samples`."""
        if self._is_tar and self._process != os.getpid():
            # A forked loader process shares the file position with its parent: each needs its own handle.
            self._process = os.getpid()
            _close_archives(self._reader)
        try:
            file, _ = self._reader[index]
            with file:
                return Image.open(io.BytesIO(file.read())).convert(self.mode)
        except _UNREADABLE as error:
            raise DataError(
                f"{self.name(index)} in {self._root} is not a readable image ({error}); replace or remove it"
            ) from error

    def fingerprint(self) -> str:
        """A hash of every image's name and size in bytes."""
        if self._is_tar:
            sizes = [sample[0].size for sample in self._reader.samples]
        else:
            sizes = [os.stat(path).st_size for path, _ in self._reader.samples]  # noqa: PTH116
        digest = hashlib.sha256()
        for name, size in zip(map(self.name, range(len(sizes))), sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode())
        return digest.hexdigest()

    def content(self) -> str:
        """A hash of every byte of the files, or of the archive, and of the images' names; see :class:`Samples`."""
        return self._content

    @functools.cached_property
    def _content(self) -> str:
        paths = [self._root] if self._is_tar else [Path(path) for path, _ in self._reader.samples]
        digest = hashlib.sha256()
        for path in paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update("\n".join(map(self.name, range(len(self.targets)))).encode())
        return digest.hexdigest()


def _close_archives(reader: Any) -> None:
    states = [reader.tar_state] if reader.root_is_tar else reader.tar_state.values()
    for state in states:
        for one in (state, *state.children.values()):
            if one.tf is not None:
                one.tf.close()
                one.reset()


class IndexedSamples:
    """Images of a torchvision data set, or of a Hugging Face one through timm's reader."""

    def __init__(
        self, images: Any, targets: Iterable[int], class_names: Sequence[str], mode: Mode, source: str
    ) -> None:
        self._images = images
        self._source = source
        self.class_names = tuple(class_names)
        self.targets: Indices = np.asarray(list(targets), dtype=np.int64)
        self.mode = mode

    def image(self, index: int) -> Image.Image:
        """The image; see :class:`Samples`."""
        try:
            image = self._images[index][0]
            if not isinstance(image, Image.Image):
                with image:
                    image = Image.open(io.BytesIO(image.read()))
            converted: Image.Image = image.convert(self.mode)
        except _UNREADABLE as error:
            raise DataError(f"image {index} of {self._source} is not a readable image ({error})") from error
        return converted

    def fingerprint(self) -> str:
        """A hash of the labels and of a few images spread evenly over the set."""
        digest = hashlib.sha256(self.targets.tobytes())
        for index in np.linspace(0, len(self.targets) - 1, _PROBES, dtype=int):
            digest.update(self.image(int(index)).tobytes())
        return digest.hexdigest()

    def content(self) -> str | None:
        """A hash of the pixels where the data set holds them as one array, as most of torchvision's do."""
        return self._content

    @functools.cached_property
    def _content(self) -> str | None:
        pixels = getattr(self._images, "data", None)
        if not isinstance(pixels, np.ndarray | torch.Tensor):
            return None
        array = np.ascontiguousarray(pixels)
        digest = hashlib.sha256(f"{self.mode} {array.shape} {array.dtype}\n".encode())
        digest.update(array.data)
        return digest.hexdigest()


class ArraySamples:
    """Images held as arrays: the embedded digits, and sources that can only be read from end to end."""

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], targets: Indices, class_names: Sequence[str], mode: Mode
    ) -> None:
        self.images = images
        self.targets = targets
        self.class_names = tuple(class_names)
        self.mode = mode

    def image(self, index: int) -> Image.Image:
        """The image; see :class:`Samples`."""
        return Image.fromarray(self.images[index])

    def fingerprint(self) -> str:
        """A hash of every pixel and label."""
        digest = hashlib.sha256(self.targets.tobytes())
        for image in self.images:
            digest.update(str(image.shape).encode() + image.tobytes())
        return digest.hexdigest()

    def content(self) -> str:
        """The same as the fingerprint."""
        return self.fingerprint()


@dataclass(frozen=True)
class Source:
    """The splits that a source itself has.

    Attributes:
        train: the training set.
        validation: a validation set beside a test set, or None.
        test: the set that the source keeps for the end, or None.
        names: where each of the three was found.
    """

    train: Samples
    validation: Samples | None
    test: Samples | None
    names: dict[str, str]
