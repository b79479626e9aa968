"""Decoded sets on disk: used when they are what is asked for and whole, made again when not, and never in the way."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vnas.config import DataConfig, TrainingConfig
from vnas.training import Data, open_data
from vnas.training.images import cache as cache_module
from vnas.training.images import samples as samples_module
from vnas.training.images.cache import Cache, Pixels, cache_folder, cache_key
from vnas.training.images.samples import FileSamples, IndexedSamples

Make = Callable[[str, Mapping[str, int]], Path]
CPU = torch.device("cpu")
PETS = {"cat": 10, "dog": 10}
SHAPE = (2, 4, 4, 3)


class Told:
    """A cache, and what it said."""

    def __init__(self, folder: Path, limit_mib: int = 1) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.cache = Cache(folder, limit_mib, self.said.append, self.warned.append)
        self.decodings = 0

    def ask(self, key: str = "a", value: int = 7, shape: tuple[int, int, int, int] = SHAPE) -> Pixels:
        def decode() -> Pixels:
            self.decodings += 1
            return np.full(shape, value, dtype=np.uint8)

        return self.cache.pixels(key, shape, decode)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "decoded")


def files(told: Told) -> list[str]:
    return sorted(path.name for path in told.cache.folder.iterdir())


def test_a_set_is_decoded_once_and_then_mapped(told: Told) -> None:
    assert (told.ask() == 7).all()
    again = told.ask(value=9)
    assert (again == 7).all()
    assert isinstance(again, np.memmap)
    assert told.decodings == 1
    assert files(told) == ["a.npy"]
    assert told.warned == []
    (line,) = told.said
    assert line.startswith("2 decoded images of 4 px are kept for the next run: 0.0 MiB in ")
    again[0] = 1  # a copy on writing
    assert (told.ask() == 7).all()
    assert (told.decodings, told.warned) == (1, [])


def test_the_file_is_numpys_own_format(told: Told) -> None:
    told.ask(value=3)
    assert np.load(told.cache.folder / "a.npy", mmap_mode="r").tolist() == np.full(SHAPE, 3).tolist()


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-60] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flipped_bit,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an array"),
        lambda path: path.write_bytes(path.read_bytes()[:150]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: np.save(path, np.zeros(SHAPE, dtype=np.uint8)),
        lambda path: np.save(path, np.zeros((3, 4, 4, 3), dtype=np.uint8)),
        lambda path: np.save(path, np.zeros(SHAPE, dtype=np.float32)),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    ],
    ids=["bit", "empty", "text", "half", "short", "no digest", "shape", "type", "pickle"],
)
def test_a_damaged_file_is_said_and_made_again(told: Told, damage: Callable[[Path], object]) -> None:
    told.ask()
    damage(told.cache.folder / "a.npy")
    assert (told.ask() == 7).all()
    (line,) = told.warned
    assert line.startswith(f"{told.cache.folder / 'a.npy'} is damaged (")
    assert line.endswith("): decoding the images again")
    assert told.decodings == 2
    assert (told.ask() == 7).all()
    assert (told.decodings, len(told.warned)) == (2, 1)


def test_a_whole_file_of_another_set_is_not_taken_for_this_one(told: Told) -> None:
    told.ask("other", shape=(3, 4, 4, 3))
    (told.cache.folder / "other.npy").rename(told.cache.folder / "a.npy")
    assert told.ask().shape == SHAPE
    assert "it holds uint8 (3, 4, 4, 3), not uint8 (2, 4, 4, 3)" in told.warned[0]


def test_the_sets_not_used_for_longest_make_room(told: Told) -> None:
    third = (1, 300, 400, 3)  # 0.34 MiB: two fit into one
    for age, key in ((300, "old"), (200, "older by name")):
        told.ask(key, shape=third)
        os.utime(told.cache.folder / f"{key}.npy", (time.time() - age,) * 2)
    told.ask("old", shape=third)  # used just now
    told.ask("new", shape=third)
    assert files(told) == ["new.npy", "old.npy"]
    assert told.said[-2] == "1 decoded set(s) not used for longest made room: data.cache_limit_mib = 1"
    assert told.warned == []


def test_a_set_larger_than_the_limit_is_not_kept_and_leaves_the_others(told: Told) -> None:
    assert told.cache.takes(SHAPE)
    told.ask()
    for _ in range(2):
        assert not told.cache.takes((1, 1000, 1000, 3))
    assert told.cache.takes(SHAPE)
    assert files(told) == ["a.npy"]
    assert told.warned == [
        "1 decoded images of 1000 px are not kept for the next run: 3 MiB is more than data.cache_limit_mib = 1; "
        "type --set data.cache_limit_mib=3 to keep them"
    ]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "decoded").write_text("a file")
    told = Told(tmp_path / "decoded")
    assert (told.ask() == 7).all()
    assert "could not be kept for the next run (" in told.warned[-1]
    assert "VNAS_CACHE_DIR" in told.warned[-1]
    assert not told.cache.takes(SHAPE)  # or each part of the set would decode the whole of it


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_nothing_half_written_is_left(told: Told, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(cache_module.os, "fsync", fail)
    if isinstance(error, OSError):
        assert (told.ask() == 7).all()
        assert "no space left" in told.warned[0]
    else:
        with pytest.raises(KeyboardInterrupt):
            told.ask()
    assert files(told) == []


def test_what_a_killed_run_left_is_cleared_after_a_day(told: Told) -> None:
    told.cache.folder.mkdir()
    for name, age in (("now.part", 0), ("old.part", 2 * 24 * 3600)):
        (told.cache.folder / name).write_bytes(b"half")
        os.utime(told.cache.folder / name, (time.time() - age,) * 2)
    told.ask()
    assert files(told) == ["a.npy", "now.part"]


def test_the_key_follows_content_size_and_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {cache_key("a", 32), cache_key("b", 32), cache_key("a", 33)}
    monkeypatch.setattr(cache_module, "pillow", "0.0.1")
    keys.add(cache_key("a", 32))
    monkeypatch.setattr(cache_module, "_DECODING", -1)
    keys.add(cache_key("a", 32))
    assert len(keys) == 5


def test_the_folder_is_the_variables_or_the_users() -> None:
    assert cache_folder({"VNAS_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y"}) == Path("/x/decoded")
    assert cache_folder({"XDG_CACHE_HOME": "/y"}) == Path("/y/vnas/decoded")
    assert cache_folder({}) == Path.home() / ".cache" / "vnas" / "decoded"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def images(data: Data, size: int = 12) -> torch.Tensor:
    recipe = TrainingConfig(flip=False, batch_size=1000)
    splits = [data.loader(split, size, device=CPU) for split in ("validation", "test")]  # type: ignore[arg-type]
    loaders = [data.training_loader(recipe, size, seed=0, device=CPU), *splits]
    return torch.cat([batch for loader in loaders for batch, _ in loader])


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_the_next_run_does_not_decode(
    make_folder: Make, make_tar: Make, own_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = str((make_folder if kind == "folder" else make_tar)("pets", PETS))
    said: list[str] = []
    first = images(open_data(path, say=said.append))
    assert len(said) == 1
    assert len(list(own_folder.iterdir())) == 1
    plain = images(open_data(DataConfig(source=path, cache=False)))
    decodings: list[int] = []
    data = open_data(DataConfig(source=path), say=said.append)
    monkeypatch.setattr(FileSamples, "image", lambda self, index: decodings.append(index))
    assert torch.equal(images(data), first)
    assert torch.equal(plain, first)
    assert (decodings, len(said)) == ([], 1)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the images that were decoded."""
    seen: list[int] = []
    image = FileSamples.image

    def counted(self: FileSamples, index: int) -> Image.Image:
        seen.append(index)
        return image(self, index)

    monkeypatch.setattr(FileSamples, "image", counted)
    return seen


def test_a_set_that_is_not_kept_is_decoded_once_all_the_same(
    make_folder: Make, own_folder: Path, decodings: list[int]
) -> None:
    warned: list[str] = []
    config = DataConfig(source=str(make_folder("pets", PETS)), cache_limit_mib=1)
    data = open_data(config, say=warned.append)
    decodings.clear()
    images(data, size=300)  # 5 MiB
    assert sorted(decodings) == list(range(20))
    assert not own_folder.exists()
    assert len(warned) == 1


def test_of_a_set_too_large_for_memory_a_small_part_is_decoded_alone(
    make_folder: Make, own_folder: Path, decodings: list[int]
) -> None:
    config = DataConfig(source=str(make_folder("pets", PETS)), resident_limit_mib=1, validation_share=0.1)
    data = open_data(config)
    decodings.clear()
    loader = data.loader("validation", 300, device=CPU)
    assert loader.pipeline == "resident"
    assert len(decodings) == data.counts["validation"] == 2
    assert not own_folder.exists()
    # Most of it is another matter: it is wanted anyway.
    config = DataConfig(source=config.source, resident_limit_mib=4, test_share=0.15)
    data = open_data(config)
    decodings.clear()
    data.training_loader(TrainingConfig(batch_size=2), 300, seed=0, device=CPU)
    assert len(decodings) == 20


def test_the_files_are_read_for_their_digest_once(
    make_folder: Make, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[object] = []
    digest = samples_module.hashlib.file_digest
    monkeypatch.setattr(
        samples_module.hashlib, "file_digest", lambda file, name: digests.append(file) or digest(file, name)
    )
    data = open_data(str(make_folder("pets", PETS)))
    images(data)
    images(data, size=16)
    assert len(digests) == 20


def test_another_cut_of_the_same_images_finds_them(make_folder: Make, own_folder: Path) -> None:
    path = str(make_folder("pets", PETS))
    images(open_data(path))
    images(open_data(DataConfig(source=path, split_seed=1, test_share=0.3)))
    assert len(list(own_folder.iterdir())) == 1
    images(open_data(path), size=16)
    assert len(list(own_folder.iterdir())) == 2


def test_without_the_cache_nothing_is_written(make_folder: Make, own_folder: Path) -> None:
    images(open_data(DataConfig(source=str(make_folder("pets", PETS)), cache=False)))
    images(open_data("digits"))
    assert not own_folder.exists()


def test_another_picture_of_the_same_name_and_size_is_seen(make_folder: Make, own_folder: Path) -> None:
    root = make_folder("pets", PETS)
    changed = root / "cat" / "3.png"

    def paint(red: int) -> None:
        # Not compressed, so that the file's size does not tell.
        Image.new("RGB", (16, 16), (red, 2, 3)).save(changed, compress_level=0)
        os.utime(changed, (1e9, 1e9))

    paint(1)
    size = changed.stat().st_size
    before = images(open_data(str(root)))
    paint(200)
    assert changed.stat().st_size == size
    assert not torch.equal(images(open_data(str(root))), before)


def test_damage_is_logged_where_nobody_listens(
    make_folder: Make, own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(make_folder("pets", PETS))
    images(open_data(path))
    assert caplog.messages == []
    (file,) = own_folder.iterdir()
    file.write_bytes(b"")
    images(open_data(path))
    (message,) = caplog.messages
    assert "is damaged" in message


def test_sets_that_hold_their_pixels_have_content_and_others_none(tmp_path: Path) -> None:
    def samples(data: object) -> IndexedSamples:
        class Held:
            pass

        held = Held()
        if data is not None:
            held.data = data  # type: ignore[attr-defined]
        return IndexedSamples(held, [0, 1], ["a", "b"], "RGB", "some/source")

    pixels = np.zeros(SHAPE, dtype=np.uint8)
    contents = [samples(pixels).content(), samples(torch.from_numpy(pixels)).content(), samples(pixels + 1).content()]
    assert contents[0] == contents[1] != contents[2]
    assert None not in contents
    assert samples(None).content() is None


def test_the_cache_settings_of_a_study_may_change_when_it_is_resumed() -> None:
    from vnas.config import changed_fields, load_study

    study = load_study("quickstart")
    other = study.model_copy(update={"data": study.data.model_copy(update={"cache": False, "cache_limit_mib": 1})})
    assert changed_fields(study, other) == {}
