import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from vnas.config import DataConfig, TrainingConfig
from vnas.errors import ConfigError, DataError, ResumeError
from vnas.training import Data, open_data, seeded
from vnas.training.images import data as data_module
from vnas.training.images.augment import statistics
from vnas.training.images.loaders import Loader, TrainingLoader, choose_pipeline
from vnas.training.images.samples import FileSamples

Make = Callable[[str, Mapping[str, int]], Path]
CPU = torch.device("cpu")
PLAIN = TrainingConfig(flip=False, batch_size=64)


def streaming(path: Path, workers: int = 0) -> Data:
    return open_data(DataConfig(source=str(path), pipeline="streaming", workers=workers))


def all_images(loader: Loader) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


def test_a_pass_shows_no_image_twice_in_a_new_order_each_time(digits: Data) -> None:
    loader = digits.training_loader(PLAIN, 8, seed=0, device=CPU)
    assert (loader.pipeline, len(loader)) == ("resident", 1375 // 64)
    passes = [all_images(loader) for _ in range(2)]
    everything = all_images(digits.loader("train", 8, device=CPU))
    known = {image.numpy().tobytes() for image in everything}
    for images in passes:
        shown = [image.numpy().tobytes() for image in images]
        assert len(shown) == 1375 // 64 * 64
        assert set(shown) <= known
    assert not torch.equal(*passes)


def test_the_seed_decides_order_and_augmentation(digits: Data) -> None:
    recipe = TrainingConfig(crop_padding=2, random_erasing=0.5, batch_size=64)

    def images(seed: int) -> torch.Tensor:
        return all_images(digits.training_loader(recipe, 16, seed=seed, device=CPU))

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


def test_images_are_decoded_once_for_all_loaders(digits: Data) -> None:
    first = digits._in_memory("train", 16, CPU)[0]
    assert digits._in_memory("train", 16, CPU)[0] is first
    assert (first.dtype, tuple(first.shape)) == (torch.uint8, (1375, 1, 16, 16))


def test_sets_of_other_sizes_make_room() -> None:
    data = open_data(DataConfig(resident_limit_mib=1))
    for size in (16, 20, 24):
        data._in_memory("train", size, CPU)
        data._in_memory("validation", size, CPU)
    assert {size for _, size, _ in data._resident} == {20, 24} or {size for _, size, _ in data._resident} == {24}
    assert ("train", 24, CPU) in data._resident


def loader_of(data: Data, seed: int = 0, **recipe: object) -> TrainingLoader:
    config = TrainingConfig.model_validate({"batch_size": 64, **recipe})
    return data.training_loader(config, 12, seed=seed, device=CPU)


ALL_OPTIONS = {"flip": "alternating", "crop_padding": 2, "crop_fill": "reflect", "cutout": 4, "random_erasing": 0.3}


@pytest.mark.parametrize("taken", [0, 1, 7, 20, 21, 22, 30, 42])
def test_a_loader_goes_on_where_another_was(digits: Data, taken: int) -> None:
    first = loader_of(digits, **ALL_OPTIONS)
    assert len(first) == 21
    left, given = iter(first), 0
    while given < taken:
        if next(left, None) is None:
            left = iter(first)
        else:
            given += 1
    state = first.state()
    kept = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    expected = [*(left if taken % 21 else []), *first]
    for name, value in state.items():
        assert torch.equal(value, kept[name]) if isinstance(value, torch.Tensor) else value == kept[name]
    other = loader_of(digits, **ALL_OPTIONS)
    next(iter(other))
    other.load_state(state)
    again = other.state()
    assert all(
        (again[name] == value) if isinstance(value, int) else again[name].equal(value) for name, value in kept.items()
    )
    found = [*(other if taken % 21 else []), *other]
    assert len(found) == len(expected)
    for (images, labels), (other_images, other_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_a_pass_that_was_left_is_not_gone_on_with(digits: Data) -> None:
    loader = loader_of(digits)
    next(iter(loader))
    assert len(list(loader)) == len(loader)


def shown(loader: TrainingLoader, images: torch.Tensor) -> dict[int, bool]:
    """Positions of the images of a pass, and whether each was mirrored."""
    known = {image.numpy().tobytes(): (place, False) for place, image in enumerate(images)}
    known |= {image.flip(2).numpy().tobytes(): (place, True) for place, image in enumerate(images)}
    return dict(known[image.numpy().tobytes()] for image in all_images(loader))


def test_alternating_flips_mirror_each_image_in_every_second_pass(make_folder: Make) -> None:
    # Asymmetric pictures, none like another.
    data = open_data(str(make_folder("pets", {"cat": 40, "dog": 40})))
    images = all_images(data.loader("train", 12, device=CPU))
    recipe = TrainingConfig(flip="alternating", batch_size=len(images))
    loader = data.training_loader(recipe, 12, seed=0, device=CPU)
    passes = [shown(loader, images) for _ in range(4)]
    assert passes[0] == passes[2]
    assert passes[1] == passes[3] == {place: not mirrored for place, mirrored in passes[0].items()}
    assert 0.3 < sum(passes[0].values()) / len(images) < 0.7
    assert shown(data.training_loader(recipe, 12, seed=1, device=CPU), images) != passes[0]


def test_the_shares_of_several_processes_are_the_batches_of_one(digits: Data) -> None:
    recipe = TrainingConfig.model_validate({"batch_size": 64, **ALL_OPTIONS})
    whole = list(digits.training_loader(recipe, 12, seed=0, device=CPU))
    shares = [list(digits.training_loader(recipe, 12, seed=0, device=CPU, shard=(rank, 4))) for rank in range(4)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        for rank, (images, labels) in enumerate(parts):
            assert torch.equal(images, batch[0][rank::4])
            assert torch.equal(labels, batch[1][rank::4])


def test_streaming_processes_share_a_pass(make_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = streaming(make_folder("pets", {"cat": 20, "dog": 20}))
    everything = {image.numpy().tobytes() for image in all_images(data.loader("train", 12, device=CPU))}
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    passes: list[list[set[bytes]]] = [[], []]
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        recipe = TrainingConfig(flip=False, batch_size=10)
        loader = data.training_loader(recipe, 12, seed=3, device=CPU, shard=(rank, 2))
        for which in range(2):
            batches = [images for images, _ in loader]
            assert {len(batch) for batch in batches} == {5}
            passes[which].append({image.numpy().tobytes() for batch in batches for image in batch})
    for first, second in passes:
        assert not first & second
        assert first | second <= everything
    assert passes[0][0] != passes[1][0]


def test_streaming_goes_on_between_two_passes_only(make_folder: Make) -> None:
    data = streaming(make_folder("pets", {"cat": 20, "dog": 20}))

    def loader() -> TrainingLoader:
        return data.training_loader(TrainingConfig(batch_size=8, cutout=4), 12, seed=0, device=CPU)

    with seeded(0):
        first = loader()
        list(first)
        state, rest = first.state(), None
        with seeded(1):
            rest = all_images(first)
        other = loader()
        other.load_state(state)
        with seeded(1):
            assert torch.equal(all_images(other), rest)
        left = iter(first)
        next(left)
        with pytest.raises(ResumeError, match=r"after 1 of 3 batches of an epoch, only between two epochs"):
            other.load_state(first.state())


def test_streaming_cuts_squares_out(make_folder: Make) -> None:
    data = streaming(make_folder("pets", {"cat": 20, "dog": 20}))
    for images, _ in data.training_loader(TrainingConfig(batch_size=8, cutout=5), 12, seed=0, device=CPU):
        holes = (images == 0).all(1)
        assert all(9 <= hole.sum() <= 25 for hole in holes)


def test_both_pipelines_fill_with_the_mirrored_border(make_folder: Make) -> None:
    path = make_folder("pets", {"cat": 10, "dog": 10})
    recipe = TrainingConfig(flip=False, batch_size=14, crop_padding=3, crop_fill="reflect")
    for data in (open_data(str(path)), streaming(path)):
        plain = all_images(data.loader("train", 12, device=CPU))
        padded = torch.nn.functional.pad(plain, (3,) * 4, mode="reflect")
        windows = padded.unfold(2, 12, 1).unfold(3, 12, 1)  # (N, C, 7, 7, 12, 12)
        with seeded(0):
            for image in all_images(data.training_loader(recipe, 12, seed=0, device=CPU)):
                away = (windows - image[:, None, None]).abs().amax((1, 4, 5))  # (N, 7, 7)
                assert away.min() < 1e-4


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"crop_padding": 12, "crop_fill": "reflect"}, r"crop_padding = 12 is too much for images of 12 px; with "),
        ({"cutout": 12}, r"cutout = 12 is too much .* at most 11"),
    ],
)
def test_augmentation_larger_than_the_image_is_refused(digits: Data, recipe: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader_of(digits, **recipe)


def test_what_the_device_has_free_counts_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [0.2]
    monkeypatch.setattr(data_module, "free_mib_of_all", lambda device: free[0])
    data = open_data(DataConfig(workers=0))
    loader = data.training_loader(TrainingConfig(), 12, seed=0, device=CPU)
    assert loader.pipeline == "streaming"
    assert loader.reason == "0 MiB decoded is more than half of the 0 MiB that the device has free"
    free[0] = 1000.0
    assert data.training_loader(TrainingConfig(), 12, seed=0, device=CPU).pipeline == "streaming"
    assert data.training_loader(TrainingConfig(), 10, seed=0, device=CPU).pipeline == "resident"
    free[0] = 0.0
    assert data.training_loader(TrainingConfig(), 10, seed=0, device=CPU).pipeline == "resident"


def test_a_batch_larger_than_the_set_is_the_set(digits: Data) -> None:
    loader = digits.training_loader(TrainingConfig(batch_size=10_000), 8, seed=0, device=CPU)
    assert [len(labels) for _, labels in loader] == [1375]


def test_a_batch_of_one_is_refused(digits: Data) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size = 1 .* use at least 2"):
        digits.training_loader(TrainingConfig(batch_size=1), 8, seed=0, device=CPU)


def test_evaluation_shows_every_image_once_in_order(digits: Data) -> None:
    for batch_size in (50, 153, 1000):
        loader = digits.loader("validation", 8, device=CPU, batch_size=batch_size)
        shown = [labels for _, labels in loader]
        assert len(shown) == len(loader) == -(-153 // batch_size)
        samples, indices = digits._sets["validation"]
        assert torch.cat(shown).tolist() == samples.targets[indices].tolist()


def test_the_choice_of_pipeline_and_its_reason() -> None:
    recipe = TrainingConfig(rand_augment="rand-m7-mstd0.5-inc1")
    assert choose_pipeline("auto", 10, 100, TrainingConfig()) == (
        "resident",
        "10.0 MiB decoded fits data.resident_limit_mib = 100",
    )
    assert choose_pipeline("auto", 200, 100, TrainingConfig()) == (
        "streaming",
        "200 MiB decoded is more than data.resident_limit_mib = 100",
    )
    assert choose_pipeline("auto", 10, 100, recipe)[0] == "streaming"
    assert choose_pipeline("auto", 10, 100, None)[0] == "resident"
    assert choose_pipeline("streaming", 10, 100, TrainingConfig()) == ("streaming", "asked for by data.pipeline")
    assert choose_pipeline("auto", 60, 100, None, 120.5)[0] == "resident"
    assert choose_pipeline("auto", 60, 100, None, 119) == (
        "streaming",
        "60 MiB decoded is more than half of the 119 MiB that the device has free",
    )
    assert choose_pipeline("resident", 60, 100, None, 1)[0] == "resident"


@pytest.mark.parametrize("option", [{"rand_augment": "rand-m5"}, {"color_jitter": 0.4}, {"random_resized_crop": True}])
def test_resident_refuses_what_it_can_not_do(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"can not do training\.{name}"):
        choose_pipeline("resident", 1, 100, TrainingConfig.model_validate(option))


@pytest.mark.parametrize(
    ("asked", "mib", "option", "why"),
    [
        ("streaming", 1, {}, "asked for by data.pipeline"),
        ("auto", 200, {}, "resident_limit_mib = 100"),
        ("auto", 1, {"rand_augment": "rand-m5"}, "one image at a time"),
    ],
)
def test_streaming_does_not_alternate_flips(asked: str, mib: float, option: dict[str, object], why: str) -> None:
    recipe = TrainingConfig.model_validate({"flip": "alternating", **option})
    with pytest.raises(ConfigError, match=rf"needs the resident pipeline.*{why}.*; set training\.flip = true"):
        choose_pipeline(asked, mib, 100, recipe)  # type: ignore[arg-type]


def test_both_pipelines_evaluate_on_the_same_pixels(make_folder: Make) -> None:
    path = make_folder("pets", {"cat": 10, "dog": 10})
    for size in (16, 8, 80):
        resident = all_images(open_data(str(path)).loader("test", size, device=CPU))
        streamed = all_images(streaming(path).loader("test", size, device=CPU))
        torch.testing.assert_close(resident, streamed, atol=1e-5, rtol=1e-5)


def test_both_pipelines_train_on_the_same_pixels_where_nothing_is_augmented(make_folder: Make) -> None:
    path = make_folder("pets", {"cat": 10, "dog": 10})
    recipe = TrainingConfig(flip=False, batch_size=14)
    found = []
    for data in (open_data(str(path)), streaming(path)):
        with seeded(0):
            images = all_images(data.training_loader(recipe, 12, seed=0, device=CPU))
        found.append(images.flatten(1).sort(0).values)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "option",
    [
        {"rand_augment": "rand-m7-mstd0.5-inc1"},
        {"color_jitter": 0.4},
        {"random_resized_crop": True},
        {"crop_padding": 2, "random_erasing": 0.5, "flip": True},
    ],
)
def test_streaming_augments_and_repeats_from_its_seed(make_folder: Make, option: dict[str, object]) -> None:
    path = make_folder("pets", {"cat": 10, "dog": 10})
    recipe = TrainingConfig.model_validate({"flip": False, "batch_size": 7, **option})

    def images(seed: int) -> torch.Tensor:
        with seeded(seed):
            loader = streaming(path).training_loader(recipe, 16, seed=seed, device=CPU)
            assert loader.pipeline == "streaming"
            assert len(loader) == 2
            return all_images(loader)

    first = images(0)
    assert tuple(first.shape) == (14, 3, 16, 16)
    assert torch.equal(first, images(0))
    assert not torch.equal(first, images(1))
    plain = all_images(streaming(path).loader("train", 16, device=CPU))
    unchanged = {image.numpy().tobytes() for image in plain}
    assert sum(image.numpy().tobytes() not in unchanged for image in first) >= 4


@pytest.mark.parametrize("channels", [1, 3])
def test_streaming_serves_grey_and_colour(make_folder: Make, channels: int) -> None:
    source = "digits" if channels == 1 else str(make_folder("pets", {"cat": 10, "dog": 10}))
    data = open_data(DataConfig(source=source, workers=0))
    recipe = TrainingConfig(rand_augment="rand-m7-mstd0.5-inc1", batch_size=8)
    with seeded(0):
        images, _ = next(iter(data.training_loader(recipe, 16, seed=0, device=CPU)))
    assert tuple(images.shape) == (8, channels, 16, 16)
    mean, std = statistics(channels)
    low = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(channels, 1, 1)
    assert (images >= low - 1e-4).all()


# Forking with threads is what a DataLoader does on Linux; Python 3.12 warns of it.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loader_processes_read_a_tar_that_is_already_open(make_tar: Make) -> None:
    data = streaming(make_tar("pets", {"cat": 40, "dog": 40}), workers=2)
    resident = open_data(DataConfig(source=data.source))
    data._sets["train"][0].image(0)
    streamed = all_images(data.loader("train", 16, device=CPU, batch_size=4))
    torch.testing.assert_close(streamed, all_images(resident.loader("train", 16, device=CPU)), atol=1e-5, rtol=1e-5)


def test_another_process_opens_an_archive_anew(make_tar: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = streaming(make_tar("pets", {"cat": 10, "dog": 10}))._sets["train"][0]
    assert isinstance(samples, FileSamples)
    before = samples.image(0).tobytes()
    inherited = samples._reader.tar_state.tf
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert samples.image(0).tobytes() == before
    assert samples._reader.tar_state.tf is not inherited


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_corrupt_image_in_a_loader_process_is_named(make_folder: Make) -> None:
    path = make_folder("pets", {"cat": 10, "dog": 10})
    data = streaming(path, workers=1)
    for image in (path / "dog").iterdir():
        image.write_bytes(b"bad")
    with pytest.raises(DataError, match=r"dog/\d\.png in .*pets is not a readable image"):
        all_images(data.loader("train", 16, device=CPU))


@pytest.mark.parametrize("text", ["m7-mstd0.5", "rand-x9", "rand-m7-nonsense5"])
def test_a_randaugment_that_timm_does_not_know(make_folder: Make, text: str) -> None:
    data = streaming(make_folder("pets", {"cat": 10, "dog": 10}))
    with pytest.raises(ConfigError, match=rf"training\.rand_augment = '{text}'"):
        data.training_loader(TrainingConfig(rand_augment=text), 16, seed=0, device=CPU)


def test_two_ways_to_move_an_image_exclude_each_other(make_folder: Make) -> None:
    data = streaming(make_folder("pets", {"cat": 10, "dog": 10}))
    with pytest.raises(ConfigError, match=r"set training\.crop_padding = 0"):
        data.training_loader(TrainingConfig(random_resized_crop=True, crop_padding=4), 16, seed=0, device=CPU)
