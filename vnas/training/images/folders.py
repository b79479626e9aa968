"""Folders and tars of class folders, and the splits that lie beside them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

from vnas.errors import DataError
from vnas.training.images.samples import FileSamples, Source

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
# timm's synonyms for an evaluation split, most usual first.
VALIDATION_NAMES = ("val", "validation", "valid", "eval", "evaluation")


def open_folder(path: Path) -> Source:
    """Open a folder or a tar, and the test and validation splits that timm's naming puts beside it.

    ``X/train.tar``, ``X/train`` and ``X`` (where it holds one of the two) are the same source. Of its siblings,
    ``test`` is the test set and ``val`` the validation set; where there is only one of the two, it is the test set.

    Raises:
        DataError: no images, an empty class, or an archive that cannot be read.
    """
    train = _training_split(path)
    test = validation = None
    if _split_name(train) in TRAIN_NAMES:
        test, validation = (_sibling(train, names) for names in (TEST_NAMES, VALIDATION_NAMES))
    if test is None:
        test, validation = validation, None
    found = {"train": train, "validation": validation, "test": test}
    samples = {split: _open(at) for split, at in found.items() if at is not None}
    return Source(
        samples["train"],
        samples.get("validation"),
        samples.get("test"),
        {split: at.name for split, at in found.items() if at is not None},
    )


def _split_name(path: Path) -> str:
    return path.name.removesuffix(".tar")


def _holds_folders(path: Path) -> bool:
    with os.scandir(path) as entries:
        return any(entry.is_dir() for entry in entries)


def _is_split(path: Path) -> bool:
    # A class may be called "train", and an unlabelled test set lies in one flat folder: neither holds class folders.
    return path.is_file() if path.suffix == ".tar" else path.is_dir() and _holds_folders(path)


def _first_split(folder: Path, names: tuple[str, ...], kinds: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{name}{kind}" for kind in kinds for name in names)
    return next((path for path in candidates if _is_split(path)), None)


def _training_split(path: Path) -> Path:
    if path.is_dir():
        return _first_split(path, TRAIN_NAMES, ("", ".tar")) or path
    if path.suffix != ".tar":
        raise DataError(f"{path} is neither a folder nor a .tar of class folders")
    return path


def _sibling(train: Path, names: tuple[str, ...]) -> Path | None:
    absolute = train.absolute()
    kinds = (".tar", "") if absolute.suffix == ".tar" else ("", ".tar")
    return _first_split(absolute.parent, names, kinds)


def _open(path: Path) -> FileSamples:
    from timm.data.dataset_factory import create_dataset

    try:
        folders = _leaf_folders_of_tar(path) if path.is_file() else _leaf_folders(path)
        if not any(folders.values()):
            raise DataError(f"{path} holds no images (.png, .jpg, .jpeg) in class folders")
        reader = create_dataset("", root=str(path), search_split=False).reader
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a readable tar archive: {error}") from error
    empty = sorted(name for name, count in folders.items() if count == 0)
    if empty:
        raise DataError(f"class folder {empty[0]!r} in {path} holds no images; fill it or remove it")
    if "" in folders:
        raise DataError(f"{path} has {folders['']} image(s) outside any class folder; move them into their class's")
    return FileSamples(reader, path)


def _leaf_folders(root: Path) -> dict[str, int]:
    """Images in every folder that has no folders below it, or has images, by path relative to the root."""
    from timm.data.readers.img_extensions import IMG_EXTENSIONS

    counts: dict[str, int] = {}
    for folder, inner, files in os.walk(root, followlinks=True):
        count = sum(os.path.splitext(name)[1].lower() in IMG_EXTENSIONS for name in files)  # noqa: PTH122
        relative = os.path.relpath(folder, root)
        if count or (not inner and relative != "."):
            counts["" if relative == "." else relative] = count
    return counts


def _leaf_folders_of_tar(path: Path) -> dict[str, int]:
    """The same for an archive; a tar inside it is a class of its own and counted as one image."""
    from timm.data.readers.img_extensions import IMG_EXTENSIONS

    extensions = {*IMG_EXTENSIONS, ".tar"}
    counts: dict[str, int] = {}
    folders: set[str] = set()
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./").strip("/")
            if member.isdir():
                folders.add(name)
            elif member.isfile() and os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122
                folder = name.rpartition("/")[0] or ("" if not name.endswith(".tar") else name)
                counts[folder] = counts.get(folder, 0) + 1
    parents = {str(parent) for name in folders | counts.keys() for parent in PurePosixPath(name).parents}
    for folder in folders - counts.keys() - parents - {"", "."}:
        counts[folder] = 0
    return counts
