"""Augmentation in batches, against the same done to one image at a time with NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.training.images.augment import (
    BatchAugmentation,
    cut_out,
    cutout_centres,
    erased_rectangles,
    gather,
    normalise,
    statistics,
)

# Pixels go through as they are.
IDENTITY = {"mean": (0.0, 0.0), "std": (1 / 255, 1 / 255)}
NOTHING = BatchAugmentation(False, 0, "black", 0, 0.0, **IDENTITY)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int = 6, width: int = 5, channels: int = 2) -> torch.Tensor:
    return torch.randint(1, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator())


def augmentation(**options: object) -> BatchAugmentation:
    return BatchAugmentation(**{**vars(NOTHING), **options})  # type: ignore[arg-type]


def test_normalise_is_mean_and_deviation_on_the_scale_of_one() -> None:
    batch = numbered(4, channels=3)
    mean, std = statistics(3)
    torch.testing.assert_close(
        normalise(batch, mean, std), (batch / 255 - torch.tensor(mean)) / torch.tensor(std), atol=1e-5, rtol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    channels=st.sampled_from([1, 3]),
    reach=st.integers(0, 3),
    fill=st.sampled_from(["black", "reflect"]),
    flips=st.booleans(),
)
def test_images_are_mirrored_and_moved_as_told(
    seed: int, size: tuple[int, int], channels: int, reach: int, fill: str, flips: bool
) -> None:
    reach = min(reach, min(size) - 1)
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (9, *size, channels), dtype=np.uint8)
    chosen, mirrored = random.integers(9, size=6), random.random(6) < 0.5
    moved = random.integers(2 * reach + 1, size=(2, 6))
    got = gather(
        torch.from_numpy(images),
        torch.from_numpy(chosen),
        torch.from_numpy(mirrored) if flips else None,
        torch.from_numpy(moved) if reach else None,
        reach,
        fill,  # type: ignore[arg-type]
    )
    mode = "constant" if fill == "black" else "reflect"
    for place, image in enumerate(got.numpy()):
        source = images[chosen[place]]
        if flips and mirrored[place]:
            source = source[:, ::-1]
        padded = np.pad(source, ((reach, reach), (reach, reach), (0, 0)), mode)  # type: ignore[call-overload]
        top, left = moved[:, place]
        assert np.array_equal(image, padded[top : top + size[0], left : left + size[1]])


def test_crops_and_flips_are_drawn_for_each_image() -> None:
    images = numbered(1, 6, 6)
    batch = augmentation(flip=True, crop_padding=2)(images, torch.zeros(600, dtype=torch.long), generator())
    padded = np.pad(images[0].numpy(), ((2, 2), (2, 2), (0, 0)))
    counts = dict.fromkeys([(flip, top, left) for flip in (False, True) for top in range(5) for left in range(5)], 0)
    for image in batch.permute(0, 2, 3, 1).numpy():
        fits = []
        for flip, top, left in counts:
            source = np.pad(images[0].numpy()[:, ::-1], ((2, 2), (2, 2), (0, 0))) if flip else padded
            if np.array_equal(source[top : top + 6, left : left + 6], image):
                fits.append((flip, top, left))
        (fit,) = fits
        counts[fit] += 1
    assert min(counts.values()) > 0
    assert max(counts.values()) < 30  # 12 expected
    assert 250 < sum(count for (flip, _, _), count in counts.items() if flip) < 350


def test_the_caller_may_say_which_are_mirrored() -> None:
    images, mirrored = numbered(4), torch.tensor([True, False, True, False])
    batch = augmentation(flip=True)(images, torch.arange(4), generator(), mirrored=mirrored)
    for place in range(4):
        expected = images[place].flip(1) if mirrored[place] else images[place]
        assert torch.equal(batch[place], expected.permute(2, 0, 1).float())


@pytest.mark.parametrize("channels", [1, 2])
def test_without_options_a_batch_is_the_images_channels_last(channels: int) -> None:
    images = numbered(5, channels=channels)
    plain = augmentation(mean=(0.0,) * channels, std=(1 / 255,) * channels)
    batch = plain(images, torch.tensor([3, 0, 3]), generator())
    assert torch.equal(batch, images[[3, 0, 3]].permute(0, 3, 1, 2).float())
    assert batch.is_contiguous(memory_format=torch.channels_last)
    if channels == 1:
        # Or convolutions would take a grey batch for one whose channels lie last, and sum in another order.
        assert batch.stride() == (30, 30, 5, 1)


@pytest.mark.parametrize(
    "options", [{"flip": True}, {"crop_padding": 2}, {"cutout": 3}, {"random_erasing": 0.5}], ids=str
)
def test_the_parts_of_a_batch_are_those_of_the_whole(options: dict[str, object]) -> None:
    images, chosen = numbered(20), torch.randperm(20, generator=generator())
    augment = augmentation(**options)
    whole = augment(images, chosen, generator(1))
    for rank in range(2):
        part = augment(images, chosen, generator(1), part=slice(rank, None, 2))
        assert torch.equal(part, whole[rank::2])
    assert not torch.equal(whole, augment(images, chosen, generator(2)))


def test_cutout_sets_a_square_to_the_mean_wherever_its_centre_lies() -> None:
    centres = torch.tensor([[0, 3, 5], [0, 2, 4]])
    for side in (2, 3):
        cut = cut_out(torch.ones(3, 6, 5, 2), centres, side)
        for image, row, column in zip(cut, *centres.tolist(), strict=True):
            expected = torch.ones(6, 5, 2)
            top, left = row - side // 2, column - side // 2
            expected[max(0, top) : top + side, max(0, left) : left + side] = 0
            assert torch.equal(image, expected)


def test_cutout_centres_are_every_pixel() -> None:
    rows, columns = cutout_centres(2000, 6, 5, generator())
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (row, col) for row in range(6) for col in range(5)
    }
    # The mean of a uniform row is 2.5, with a standard error of 0.04.
    assert abs(rows.double().mean() - 2.5) < 0.2


def test_cutout_is_drawn_for_each_image() -> None:
    batch = augmentation(cutout=2)(numbered(1).expand(50, -1, -1, -1), torch.arange(50), generator())
    places = {tuple((image == 0).all(0).nonzero()[0].tolist()) for image in batch}
    assert len(places) > 10


@pytest.mark.parametrize("size", [2, 16])
def test_rectangles_are_erased_from_some_images(size: int) -> None:
    erased = erased_rectangles(400, size, size, 0.25, generator())[..., 0]
    touched = 0
    for inside in erased:
        if not inside.any():
            continue
        touched += 1
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            first, last = line.nonzero().min(), line.nonzero().max()
            assert line.sum() == last - first + 1
        assert inside.sum() < size * size
    assert 60 < touched < 140


def test_erased_areas_are_those_of_the_paper() -> None:
    shares = erased_rectangles(2000, 64, 64, 1.0, generator()).float().mean((1, 2, 3))
    assert 0.015 < shares.min() < 0.03
    assert 0.3 < shares.max() < 0.35
    assert shares.mean() == pytest.approx(0.5 * (0.02 + 1 / 3), abs=0.01)


def test_what_is_erased_becomes_noise_and_the_rest_stays() -> None:
    images = torch.full((300, 8, 8, 2), 100, dtype=torch.uint8)
    batch = augmentation(random_erasing=0.5)(images, torch.arange(300), generator())
    noise = batch[batch != 100.0]
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert 0.02 < len(noise) / batch.numel() < 0.15
    assert batch.is_contiguous(memory_format=torch.channels_last)
