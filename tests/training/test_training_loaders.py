import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from vnas.config import DataConfig, TrainingConfig
from vnas.errors import ConfigError, DataError
from vnas.training import Data, open_data, seeded
from vnas.training.augment import statistics
from vnas.training.loaders import Loader, choose_pipeline
from vnas.training.samples import FileSamples

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


@pytest.mark.parametrize("option", [{"rand_augment": "rand-m5"}, {"color_jitter": 0.4}, {"random_resized_crop": True}])
def test_resident_refuses_what_it_can_not_do(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"can not do training\.{name}"):
        choose_pipeline("resident", 1, 100, TrainingConfig.model_validate(option))


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
