import numpy as np
import torch
from PIL import Image

from vnas.training.images.decoding import decoded, resize, upsample
from vnas.training.images.samples import ArraySamples

LABELS = np.zeros(3, dtype=np.int64)


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
    random = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    assert upsample(random, 8).equal(random)


def test_arrays_and_lists_of_arrays_decode_to_the_chosen_pixels_channels_last() -> None:
    colour = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)
    for images in (colour, list(colour)):
        pixels = decoded(ArraySamples(images, LABELS, ["a"], "RGB"), np.array([2, 0]), 8, None)
        assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), colour[[2, 0]])
        assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_grey_decodes_to_one_channel() -> None:
    grey = np.random.default_rng(0).integers(256, size=(3, 8, 8), dtype=np.uint8)
    for images in (grey, list(grey)):
        pixels = decoded(ArraySamples(images, LABELS, ["a"], "L"), np.array([2, 0]), 8, None)
        assert np.array_equal(pixels[:, 0].numpy(), grey[[2, 0]])
