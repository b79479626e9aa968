import importlib.util
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from vnas.config import DataConfig
from vnas.errors import DataError, MissingExtraError
from vnas.training import Data, open_data
from vnas.training.images import hub as hub_module

Make = Callable[[str, Mapping[str, int]], Path]
CPU = torch.device("cpu")
PETS = {"cat": 10, "dog": 10}


def labels(data: Data, split: str) -> list[int]:
    return [int(y) for _, batch in data.loader(split, 8, device=CPU) for y in batch]  # type: ignore[arg-type]


def test_digits_are_the_1797_of_scikit_learn_cut_in_three(digits: Data) -> None:
    assert sum(digits.counts.values()) == 1797
    assert (digits.num_classes, digits.in_chans, digits.native_size) == (10, 1, (8, 8))
    assert digits.class_names == tuple("0123456789")
    assert digits.splits["test"] == "cut from the training set (0.15 of each class, seed 0)"
    assert digits.splits["validation"] == "cut from the training set (0.1 of each class, seed 0)"
    for split in ("validation", "test"):
        shares = np.bincount(labels(digits, split)) / digits.counts[split]  # type: ignore[index]
        assert np.abs(shares - 0.1).max() < 0.01


def test_the_three_sets_do_not_overlap_and_the_seed_moves_them(digits: Data) -> None:
    indices = [index for _, chosen in digits._sets.values() for index in chosen]
    assert sorted(indices) == list(range(1797))
    other = open_data(DataConfig(split_seed=1))
    assert not np.array_equal(other._sets["test"][1], digits._sets["test"][1])
    assert other.fingerprint != digits.fingerprint
    assert open_data("digits").fingerprint == digits.fingerprint


@pytest.mark.parametrize("opened", ["set", "set/train", "set/training.tar"])
@pytest.mark.parametrize("sibling", ["test", "val", "validation", "eval"])
def test_a_sibling_split_is_the_test_set(make_folder: Make, make_tar: Make, opened: str, sibling: str) -> None:
    make, train = (make_tar, "set/training") if opened.endswith(".tar") else (make_folder, "set/train")
    root = make(train, PETS).parent
    make(f"set/{sibling}", {"cat": 3, "dog": 4})
    data = open_data(str(root.parent / opened))
    suffix = ".tar" if make is make_tar else ""
    assert data.counts == {"train": 18, "validation": 2, "test": 7}
    assert data.splits["test"] == f"given: {sibling}{suffix}"
    assert data.splits["validation"].startswith("cut from the training set (0.1")
    assert (data.in_chans, data.native_size, data.class_names) == (3, (16, 16), ("cat", "dog"))
    assert labels(data, "test") == [0] * 3 + [1] * 4


def test_beside_a_test_set_a_validation_set_is_the_validation_set(make_folder: Make) -> None:
    root = make_folder("set/train", PETS).parent
    make_folder("set/test", {"cat": 1, "dog": 1})
    make_folder("set/val", {"cat": 2, "dog": 2})
    data = open_data(str(root))
    assert data.counts == {"train": 20, "validation": 4, "test": 2}
    assert dict(data.splits) == {"train": "given: train", "validation": "given: val", "test": "given: test"}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_without_a_sibling_a_test_set_is_cut_and_said_so(make_folder: Make, make_tar: Make, kind: str) -> None:
    path = (make_folder if kind == "folder" else make_tar)("pets", {"cat": 20, "dog": 20})
    data = open_data(DataConfig(source=str(path), test_share=0.2, validation_share=0.25, split_seed=3))
    assert data.counts == {"train": 24, "validation": 8, "test": 8}
    assert data.splits["test"] == "cut from the training set (0.2 of each class, seed 3)"
    assert data.splits["train"].endswith("less what was cut")


def test_a_class_called_train_is_a_class(make_folder: Make) -> None:
    data = open_data(str(make_folder("vehicles", {"bus": 4, "car": 4, "train": 4})))
    assert data.class_names == ("bus", "car", "train")


def test_an_unlabelled_test_folder_is_passed_over(make_folder: Make) -> None:
    root = make_folder("set/train", PETS).parent
    make_folder("set/val", {"cat": 2, "dog": 2})
    (root / "test").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "1.png")
    assert open_data(str(root)).splits["test"] == "given: val"


def test_the_test_set_is_not_decoded_before_it_is_asked_for(make_folder: Make) -> None:
    root = make_folder("set/train", PETS).parent
    broken = make_folder("set/test", PETS) / "cat" / "0.png"
    broken.write_bytes(b"not an image")
    data = open_data(str(root))
    labels(data, "validation")
    with pytest.raises(DataError, match=r"cat/0\.png in .*test is not a readable image"):
        data.loader("test", 8, device=CPU)


def test_the_fingerprint_follows_the_files(make_folder: Make) -> None:
    path = make_folder("pets", PETS)
    before = open_data(str(path)).fingerprint
    assert open_data(str(path)).fingerprint == before
    Image.new("RGB", (20, 20)).save(path / "cat" / "3.png")
    assert open_data(str(path)).fingerprint != before


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated"])
def test_a_corrupt_image_is_named(make_folder: Make, content: bytes) -> None:
    path = make_folder("pets", PETS)
    for image in (path / "dog").iterdir():
        image.write_bytes(content)
    with pytest.raises(DataError, match=r"dog/\d\.png in .*pets is not a readable image .*replace or remove it"):
        labels(open_data(str(path)), "train")


def test_a_corrupt_image_in_a_tar_is_named(make_tar: Make, tmp_path: Path) -> None:
    path = make_tar("pets", PETS)
    with tarfile.open(path, "a") as archive:
        (tmp_path / "bad").write_bytes(b"bad")
        for index in range(50):
            archive.add(tmp_path / "bad", f"./dog/bad{index}.png")
    with pytest.raises(DataError, match=r"dog/bad\d+\.png in .*pets\.tar is not a readable image"):
        labels(open_data(str(path)), "train")


def test_an_empty_class_is_named(make_folder: Make, make_tar: Make) -> None:
    for path in (make_folder("pets", {"cat": 4, "dog": 0}), make_tar("packed", {"cat": 4, "dog": 0})):
        with pytest.raises(DataError, match=r"class folder 'dog' in .* holds no images"):
            open_data(str(path))


def test_no_images_at_all(make_folder: Make, make_tar: Make, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for path in (tmp_path / "nothing", make_folder("pets", {"cat": 0}), make_tar("packed", {"cat": 0})):
        with pytest.raises(DataError, match="holds no images"):
            open_data(str(path))


def test_images_outside_class_folders(make_folder: Make) -> None:
    path = make_folder("pets", PETS)
    Image.new("RGB", (8, 8)).save(path / "stray.png")
    with pytest.raises(DataError, match=r"has 1 image\(s\) outside any class folder"):
        open_data(str(path))


def test_a_single_class(make_folder: Make) -> None:
    with pytest.raises(DataError, match=r"has a single class, 'cat'"):
        open_data(str(make_folder("pets", {"cat": 4})))


def test_a_class_too_small_to_split(make_folder: Make) -> None:
    with pytest.raises(DataError, match=r"class 'dog' has 1 image\(s\) left; to cut a test set"):
        open_data(str(make_folder("pets", {"cat": 9, "dog": 1})))
    with pytest.raises(DataError, match=r"class 'dog' has 1 image\(s\) left; to cut a validation set"):
        open_data(str(make_folder("more", {"cat": 9, "dog": 2})))


def test_classes_that_do_not_agree(make_folder: Make) -> None:
    root = make_folder("set/train", PETS).parent
    make_folder("set/test", {"cat": 2, "fox": 2})
    with pytest.raises(DataError, match=r"its test does not have the classes .* lacks 'dog' and has besides 'fox'"):
        open_data(str(root))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digts", "'digts' is not a data source. Did you mean 'digits'"),
        ("nowhere/pets", "there is no folder or file 'nowhere/pets'"),
        ("pets.tar", r"there is no folder or file 'pets\.tar'"),
        ("torhc/cifar10", "Did you mean 'torch'"),
        ("torch/cifar11", "Did you mean 'cifar10'"),
        ("torch/", "'torch/' names no data set; write for example torch/NAME"),
    ],
)
def test_a_source_that_is_none(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(source)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"pets\.zip is neither a folder nor a \.tar"):
        open_data(str(tmp_path / "pets.zip"))
    (tmp_path / "pets.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"pets\.tar is not a readable tar archive"):
        open_data(str(tmp_path / "pets.tar"))


@pytest.mark.parametrize(
    ("source", "package"),
    [("hfds/a/b", "datasets"), ("wds/a", "webdataset"), ("tfds/mnist", "tensorflow-datasets")],
)
def test_a_missing_package_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch, source: str, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=f"type: pip install {package}"):
        open_data(source)


class _HubTable(dict[str, list[int]]):
    info: SimpleNamespace


class _HubReader:
    """Stands in for timm's reader of a Hugging Face data set."""

    class_to_idx: ClassVar = {"cat": 0, "dog": 1}
    label_key = "label"

    def __init__(self, labels: list[int], splits: list[str]) -> None:
        self.labels = labels
        self.dataset = _HubTable(label=labels)
        self.dataset.info = SimpleNamespace(splits=splits)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        return io.BytesIO(buffer.getvalue()), self.labels[index]


@pytest.mark.parametrize("test_labels", [[0, 1, 1], [-1, -1, -1], None])
def test_a_hub_set_whose_test_labels_are_kept_back(
    monkeypatch: pytest.MonkeyPatch, test_labels: list[int] | None
) -> None:
    splits = {"train": [0, 1] * 10, "validation": [0, 1], **({} if test_labels is None else {"test": test_labels})}

    def create(name: str, root: str | None, split: str) -> SimpleNamespace:
        assert (name, root) == ("hfds/someone/pets", None)
        return SimpleNamespace(reader=_HubReader(splits[split], list(splits)))

    monkeypatch.setattr(hub_module, "_require", lambda source, prefix: None)
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create)
    data = open_data("hfds/someone/pets")
    if test_labels == [0, 1, 1]:
        assert data.counts == {"train": 20, "validation": 2, "test": 3}
        assert data.splits["validation"] == "given: validation"
    else:
        assert data.counts == {"train": 18, "validation": 2, "test": 2}
        assert data.splits["test"] == "given: validation"
    assert len(labels(data, "test")) == data.counts["test"]


class _Stream:
    """Stands in for timm's iterable data set: PIL images and labels, in the order given."""

    def __init__(self, order: list[int]) -> None:
        self.order = order
        self.reader = type("Reader", (), {"class_to_idx": {"cat": 0, "dog": 1}})()

    def __iter__(self) -> object:
        for index in self.order:
            yield Image.fromarray(np.full((8, 8, 3), index, dtype=np.uint8)), index % 2


def test_an_iterable_source_is_cut_the_same_whatever_order_it_arrives_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for order in (list(range(40)), list(range(39, -1, -1))):

        def create(name: str, root: str, split: str, is_training: bool, order: list[int] = order) -> _Stream:
            assert (name, root) == ("wds/", str(tmp_path))
            if split != "train":
                raise RuntimeError("no such split")
            return _Stream(order)

        monkeypatch.setattr(hub_module, "_require", lambda source, prefix: None)
        monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create)
        data = open_data(f"wds/{tmp_path}")
        assert data.class_names == ("cat", "dog")
        assert data.splits["test"].startswith("cut")
        found.append([x.sum().item() for x, _ in data.loader("test", 8, device=CPU)])
    assert found[0] == found[1]


def test_an_iterable_sources_validation_split_is_its_test_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def create(name: str, root: str, split: str, is_training: bool) -> _Stream:
        if split not in ("train", "validation"):
            raise RuntimeError("no such split")
        return _Stream(list(range(40 if split == "train" else 12)))

    monkeypatch.setattr(hub_module, "_require", lambda source, prefix: None)
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create)
    data = open_data(f"wds/{tmp_path}")
    assert data.counts == {"train": 36, "validation": 4, "test": 12}
    assert data.splits["test"] == "given: validation"
    with pytest.raises(DataError, match="there is no folder 'nowhere'"):
        open_data("wds/nowhere")


def test_an_iterable_source_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_module, "_require", lambda source, prefix: None)
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", lambda *args, **kwargs: _Stream([0] * 6000))
    with pytest.raises(DataError, match=r"more than data.resident_limit_mib = 1 MiB once decoded"):
        open_data(DataConfig(source=f"wds/{tmp_path}", resident_limit_mib=1))


def test_a_torchvision_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def init(self: CIFAR10, root: str, train: bool = True, download: bool = False) -> None:
        assert root == str(tmp_path)
        if not download:
            raise RuntimeError("Dataset not found")
        self.transform = self.target_transform = None
        self.classes = [f"c{label}" for label in range(10)]
        self.targets = list(range(10)) * (4 if train else 1)
        self.data = np.zeros((len(self.targets), 32, 32, 3), dtype=np.uint8)

    monkeypatch.setattr(CIFAR10, "__init__", init)
    data = open_data(f"torch/cifar10:{tmp_path}")
    assert data.counts == {"train": 30, "validation": 10, "test": 10}
    assert data.splits["test"].endswith("validation")
    assert data.native_size == (32, 32)


def test_a_download_that_fails_says_where_to_put_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def init(self: CIFAR10, root: str, train: bool = True, download: bool = False) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(CIFAR10, "__init__", init)
    with pytest.raises(DataError, match=r"could not be downloaded there \(no network\); write torch/NAME:ROOT"):
        open_data(f"torch/cifar10:{tmp_path}")
