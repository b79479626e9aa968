"""Decoded images on disk, so that a set is decoded once and not once a run.

One file a set and image size, named by a hash of all that its pixels depend on: the encoded images, the size, and what
decoded them. It is NumPy's .npy format, (N, S, S, C) of uint8, followed by the SHA-256 of the pixels. It is written
beside its place and then moved there, so that what is there is whole, and is checked before it is used.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow
from PIL import features

Pixels = NDArray[np.uint8]
# Goes up whenever the same encoded image is brought to other pixels.
_DECODING = 1
_DIGEST_BYTES = hashlib.sha256().digest_size
# A part file this old is what an interrupted run left.
_STALE_SECONDS = 24 * 3600.0


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where decoded sets are kept: below VNAS_CACHE_DIR, else below vnas in the user's folder for caches.

    Args:
        environment: variables to look in; those of this process by default.
    """
    variables = os.environ if environment is None else environment
    if variables.get("VNAS_CACHE_DIR"):
        return Path(variables["VNAS_CACHE_DIR"]) / "decoded"
    base = variables.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vnas" / "decoded"


def cache_key(content: str, image_size: int) -> str:
    """Name of the file for a set.

    Args:
        content: digest of the encoded images, in their order.
        image_size: S, in pixels.
    """
    decoder = f"{_DECODING} pillow {pillow} jpeg {features.version('jpg')} {features.version('libjpeg_turbo')}"
    return hashlib.sha256(f"{content}\n{image_size}\n{decoder}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Cache:
    """A folder of decoded sets.

    Attributes:
        folder: made when something is kept in it.
        limit_mib: most that all files in it may take, in MiB.
        say: told of a set that is kept and of sets that make room for it, in a line each.
        warn: told of what went wrong, once.
    """

    folder: Path
    limit_mib: int
    say: Callable[[str], None]
    warn: Callable[[str], None]
    # Shapes that are too large; None once the folder could not be written.
    _refused: set[tuple[int, ...] | None] = field(default_factory=set, repr=False)

    def takes(self, shape: tuple[int, int, int, int]) -> bool:
        """Whether a set would be kept, as far as can be told before it is decoded.

        Args:
            shape: (N, S, S, C).
        """
        mib = math.prod(shape) / 2**20
        if mib > self.limit_mib and shape not in self._refused:
            self._refused.add(shape)
            self.warn(
                f"{_images(shape)} are not kept for the next run: {mib:,.0f} MiB is more than data.cache_limit_mib = "
                f"{self.limit_mib}; type --set data.cache_limit_mib={int(mib) + 1} to keep them"
            )
        return not {shape, None} & self._refused

    def pixels(self, key: str, shape: tuple[int, int, int, int], decode: Callable[[], Pixels]) -> Pixels:
        """A set: mapped from its file, or decoded and kept.

        Args:
            key: see :func:`cache_key`.
            shape: (N, S, S, C), one that it takes.
            decode: gives the pixels.

        Returns:
            (N, S, S, C); changing them changes no file.
        """
        path = self.folder / f"{key}.npy"
        found = self._found(path, shape)
        if found is not None:
            return found
        pixels = np.ascontiguousarray(decode())
        self._keep(path, pixels)
        return pixels

    def _found(self, path: Path, shape: tuple[int, int, int, int]) -> Pixels | None:
        try:
            # Copied on writing: torch warns of memory that it may not write to.
            pixels = np.lib.format.open_memmap(path, mode="c")
            if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.flags.c_contiguous:
                raise ValueError(f"it holds {pixels.dtype} {pixels.shape}, not uint8 {shape}")
            with path.open("rb") as file:
                file.seek(-_DIGEST_BYTES, os.SEEK_END)
                written = file.read()
            if hashlib.sha256(pixels.data).digest() != written:
                raise ValueError("its pixels are not those that were written")
            os.utime(path)  # it was used just now: others make room first
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            self.warn(f"{path} is damaged ({error}): decoding the images again")
            return None
        return pixels

    def _keep(self, path: Path, pixels: Pixels) -> None:
        images, mib = _images(pixels.shape), pixels.nbytes / 2**20
        part: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(path, pixels.nbytes)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                part = Path(file.name)
                np.lib.format.write_array(file, pixels)
                file.write(hashlib.sha256(pixels.data).digest())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            self.say(f"{images} are kept for the next run: {mib:,.1f} MiB in {path} (--set data.cache=false: not)")
        except OSError as error:
            self._refused.add(None)
            self.warn(
                f"{images} could not be kept for the next run ({error}); name another folder with the variable "
                "VNAS_CACHE_DIR, or type --set data.cache=false"
            )
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def _make_room(self, path: Path, size: int) -> None:
        for left in self.folder.glob("*.part"):
            if time.time() - _status(left)[0] > _STALE_SECONDS:
                left.unlink(missing_ok=True)
        others = sorted((*_status(other), other) for other in self.folder.glob("*.npy") if other != path)
        taken = size + sum(held for _, held, _ in others)
        removed = 0
        for _, held, other in others:
            if taken <= self.limit_mib * 2**20:
                break
            other.unlink(missing_ok=True)
            taken, removed = taken - held, removed + 1
        if removed:
            self.say(
                f"{removed} decoded set(s) not used for longest made room: data.cache_limit_mib = {self.limit_mib}"
            )


def _images(shape: tuple[int, ...]) -> str:
    return f"{shape[0]:,} decoded images of {shape[1]} px"


def _status(path: Path) -> tuple[float, int]:
    """When a file was last used, and its size in bytes; one that another run has just removed was never used."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0.0, 0
    return status.st_mtime, status.st_size
