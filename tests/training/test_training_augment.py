import pytest
import torch
from PIL import Image

from vnas.training.augment import BatchAugmentation, erase, normalise, resize, statistics, translate, upsample


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def numbered(count: int, channels: int = 2, size: int = 6) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=seeded_generator())


def test_normalise_is_mean_and_deviation_on_the_scale_of_one() -> None:
    batch = numbered(4, 3)
    mean, std = statistics(3)
    expected = (batch / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalise(batch, mean, std), expected, atol=1e-5, rtol=1e-5)


def test_translate_crops_the_padded_image_somewhere_new_for_each() -> None:
    batch = numbered(200)
    moved = translate(batch, 2, seeded_generator())
    places = set()
    for before, after in zip(batch, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2,) * 4)
        fits = [
            (dy, dx) for dy in range(5) for dx in range(5) if torch.equal(padded[:, dy : dy + 6, dx : dx + 6], after)
        ]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) == 25


def test_flip_mirrors_about_half_of_the_images_from_left_to_right() -> None:
    batch = numbered(400, 1)
    flipped = BatchAugmentation(True, 0, 0.0, (0.0,), (1 / 255,))(batch, seeded_generator())
    mirrored = [torch.equal(after, before.flip(2).float()) for before, after in zip(batch, flipped, strict=True)]
    same = [torch.equal(after, before.float()) for before, after in zip(batch, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 150 < sum(mirrored) < 250


def test_without_options_a_batch_is_only_normalised() -> None:
    batch = numbered(5, 1)
    plain = BatchAugmentation(False, 0, 0.0, (0.5,), (0.5,))(batch, seeded_generator())
    assert torch.equal(plain, normalise(batch, (0.5,), (0.5,)))


@pytest.mark.parametrize("size", [2, 16])
def test_erase_fills_one_rectangle_of_some_images(size: int) -> None:
    batch = torch.full((400, 2, size, size), 100.0)
    erased = erase(batch, 0.25, seeded_generator())
    touched = 0
    for image in erased:
        changed = (image != 100.0).all(0)
        if not changed.any():
            continue
        touched += 1
        rows, columns = changed.any(1), changed.any(0)
        assert torch.equal(changed, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            first, last = line.nonzero().min(), line.nonzero().max()
            assert line.sum() == last - first + 1
        assert changed.sum() < size * size
    assert 60 < touched < 140


def test_erased_areas_are_those_of_the_paper() -> None:
    erased = erase(torch.full((2000, 1, 64, 64), 100.0), 1.0, seeded_generator())
    shares = (erased != 100.0).float().mean((1, 2, 3))
    assert 0.015 < shares.min() < 0.03
    assert 0.3 < shares.max() < 0.35
    assert shares.mean() == pytest.approx(0.5 * (0.02 + 1 / 3), abs=0.01)


def test_small_images_are_shown_whole_and_large_ones_cropped_at_the_centre() -> None:
    wide = Image.new("RGB", (60, 30))
    wide.paste((255, 255, 255), (15, 0, 45, 30))
    assert resize(wide, 30).getextrema() == ((255, 255),) * 3
    framed = Image.new("L", (256, 256), 255)
    framed.paste(0, (16, 16, 240, 240))  # 224 of 256 pixels is the share .875 that is kept
    assert resize(framed, 224).getextrema() == (0, 0)
    assert resize(framed, 64).getextrema() == (0, 255)


def test_upsampling_keeps_flat_images_flat_and_the_range() -> None:
    flat = torch.full((1, 1, 8, 8), 37, dtype=torch.uint8)
    assert (upsample(flat, 32) == 37).all()
    assert upsample(numbered(3, 1, 8), 8).equal(numbered(3, 1, 8))
