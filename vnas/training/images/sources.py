"""From the text after ``--data`` to labelled images: the embedded digits and what timm's create_dataset reads.

digits                      scikit-learn's 1,797 handwritten digits, 8 x 8, grey
PATH                        a folder or a .tar of class folders, or a folder that holds train and test or val
torch/NAME[:ROOT]           a torchvision data set, downloaded where ROOT has none
hfds/NAME[:CACHE]           a Hugging Face data set
wds/PATH, hfids/NAME, tfds/NAME    sources without an index: read once from end to end and kept in memory
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vnas.errors import DataError, nearest
from vnas.training.images.folders import open_folder
from vnas.training.images.hub import open_hub, open_iterable
from vnas.training.images.samples import ArraySamples, IndexedSamples, Mode, Samples, Source

# Sources that go by a name, and what each needs to have installed.
_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
_TORCH: dict[str, Mode] = {
    "cifar10": "RGB",
    "cifar100": "RGB",
    "mnist": "L",
    "kmnist": "L",
    "fashion_mnist": "L",
    "qmnist": "L",
    "imagenet": "RGB",
    "places365": "RGB",
}


def open_source(source: str, memory_limit_mib: int) -> Source:
    """Find what a source holds, without decoding its images.

    Args:
        source: see the top of this module.
        memory_limit_mib: most that a source without an index may take when kept in memory, decoded.

    Raises:
        DataError: there is no such source, or it cannot be used.
        MissingExtraError: an optional package is needed; the message holds the pip line.
    """
    prefix, slash, rest = source.partition("/")
    # A path is a path even where it starts like one of the prefixes.
    if slash and prefix in _PREFIXES and not Path(source).exists():
        if not rest:
            raise DataError(f"{source!r} names no data set; write for example {prefix}/NAME")
        if prefix == "torch":
            return _open_torch(source, rest)
        if prefix == "hfds":
            return open_hub(source, rest)
        return open_iterable(source, prefix, rest, memory_limit_mib)
    if source == "digits":
        return _digits()
    if Path(source).exists():
        return open_folder(Path(source))
    if slash or source.endswith(".tar"):
        hint = nearest(prefix, _PREFIXES) if slash and not source.startswith(("/", ".")) else ""
        raise DataError(f"there is no folder or file {source!r}.{hint} {_allowed()}")
    raise DataError(f"{source!r} is not a data source.{nearest(source, ('digits', *_PREFIXES))} {_allowed()}")


def _allowed() -> str:
    return (
        "Allowed: digits, a folder or .tar of class folders, torch/cifar10 (or another torchvision set), hfds/NAME, "
        "hfids/NAME, tfds/NAME, wds/PATH"
    )


def _digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)  # grey levels 0 to 16 -> 0 to 255
    samples = ArraySamples(images, digits.target.astype(np.int64), [str(n) for n in digits.target_names], "L")
    return Source(samples, None, None, {"train": "scikit-learn's load_digits"})


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vnas" / "data"


def _open_torch(source: str, rest: str) -> Source:
    from timm.data.dataset_factory import create_dataset

    name, _, root_text = rest.partition(":")
    name = name.lower()
    if name not in _TORCH:
        raise DataError(
            f"{source!r}: {name!r} is not a torchvision set that vnas reads.{nearest(name, _TORCH)} "
            f"Allowed: {', '.join(_TORCH)}"
        )
    root = Path(root_text).expanduser() if root_text else _cache_folder() / name

    def split(which: str) -> Samples:
        def create(download: bool) -> Any:
            return create_dataset(f"torch/{name}", root=str(root), split=which, download=download)

        images = _found_or_downloaded(create, source, root)
        classes = [one[0] if isinstance(one, tuple) else one for one in images.classes]
        labels = np.asarray(images.targets)
        # QMNIST keeps eight columns a sample; the first is the digit.
        return IndexedSamples(images, labels[:, 0] if labels.ndim == 2 else labels, classes, _TORCH[name], source)

    return Source(
        split("train"), None, split("validation"), {"train": f"{source} train", "test": f"{source} validation"}
    )


def _found_or_downloaded(create: Callable[[bool], Any], source: str, root: Path) -> Any:
    try:
        return create(False)
    except (RuntimeError, FileNotFoundError, NotADirectoryError):
        root.mkdir(parents=True, exist_ok=True)
    try:
        return create(True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{source!r} is not in {root} and could not be downloaded there ({error}); "
            f"write torch/NAME:ROOT to name the folder that holds it"
        ) from error
