"""Augmenting many images at a time, without a loop over them.

Shapes: B images in a batch, N in a set, C channels, H x W pixels. All of it works on images as they lie in memory,
channels last: (B, H, W, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

# Area and aspect ratio of what is erased: Zhong et al., Random Erasing (arXiv 1708.04896).
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = 0.3


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised by, on the scale 0 to 1.

    ImageNet's for three channels, a half each for one; the same for every split, pipeline and image size, so that a
    net's weights say all there is to say about its input.
    """
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if channels == 3 else ((0.5,), (0.5,))


@dataclass(frozen=True)
class BatchAugmentation:
    """What happens to a training batch, all of it at once and on the device that holds the set.

    Attributes:
        flip: mirror images, each with probability one half unless the caller says which.
        crop_padding: pixels by which an image moves at most, in each direction.
        crop_fill: what comes in where it has moved: ``black``, or its own border mirrored (``reflect``).
        cutout: side of a square that becomes the mean in each image, in pixels; its centre lies anywhere in the image.
        random_erasing: probability that a rectangle of an image becomes noise.
        mean: see :func:`statistics`.
        std: see :func:`statistics`.
    """

    flip: bool
    crop_padding: int
    crop_fill: Literal["black", "reflect"]
    cutout: int
    random_erasing: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self,
        images: Tensor,
        chosen: Tensor,
        generator: torch.Generator,
        *,
        mirrored: Tensor | None = None,
        part: slice = slice(None),
    ) -> Tensor:
        """Take some images of a set, augment and normalise them.

        Args:
            images: the set, uint8, (N, H, W, C).
            chosen: positions of the batch in the set, (B,).
            generator: random numbers, on the set's device.
            mirrored: which images to mirror, bool, (B,); drawn where there is none and ``flip`` says so.
            part: the images to give, of the B that random numbers are drawn for: each of several processes gives its
                share of what a single one would.

        Returns:
            float32, (B, C, H, W), channels last.
        """
        count, (height, width), device = len(chosen), images.shape[1:3], images.device
        if mirrored is None and self.flip:
            mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        moved = None
        if self.crop_padding:
            places = 2 * self.crop_padding + 1
            moved = torch.randint(places, (2, count), generator=generator, device=device)[:, part]
        if mirrored is not None:
            mirrored = mirrored[part]
        pixels = gather(images, chosen[part], mirrored, moved, self.crop_padding, self.crop_fill)
        batch = normalise(pixels, self.mean, self.std)
        if self.cutout:
            batch = cut_out(batch, cutout_centres(count, height, width, generator)[:, part], self.cutout)
        if self.random_erasing:
            erased = erased_rectangles(count, height, width, self.random_erasing, generator)[part]  # (B, H, W, 1)
            noise = torch.randn((count, *batch.shape[1:]), generator=generator, device=device)
            batch = torch.where(erased, noise[part], batch)
        return channels_first(batch)


def channels_first(batch: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), the same memory: what torch calls channels last."""
    count, height, width, channels = batch.shape
    # With one channel both orders are the same memory, and the strides should say the usual one.
    return batch.view(count, 1, height, width) if channels == 1 else batch.permute(0, 3, 1, 2)


def gather(
    images: Tensor,
    chosen: Tensor,
    mirrored: Tensor | None,
    moved: Tensor | None,
    reach: int,
    fill: Literal["black", "reflect"],
) -> Tensor:
    """Take images out of a set, mirrored and moved as told.

    Every choice is made by an ``index_select`` whose elements are whole images, or the windows of a padded image seen
    as one: some 3,000 bytes are then copied at a time. To index pixels, or to choose with ``where``, took 2 to 8 times
    as long on a CPU.

    Args:
        images: (N, H, W, C).
        chosen: positions in the set, (B,).
        mirrored: which to mirror from left to right, before they are moved; bool, (B,).
        moved: row and column of the padded image at which the window begins, 0 to twice the reach; (2, B).
        reach: pixels by which images are padded.
        fill: see :class:`BatchAugmentation`.

    Returns:
        (B, H, W, C), of the set's type.
    """
    batch = images.index_select(0, chosen)
    count, height, width, channels = batch.shape
    place = torch.arange(count, device=batch.device)
    if mirrored is not None:
        batch = torch.cat((batch, batch.flip(2)))  # (2 B, H, W, C)
        place = place + count * mirrored
    if moved is None:
        return batch if mirrored is None else batch.index_select(0, place)
    padded = pad(batch, reach, fill)
    tall, wide = padded.shape[1:3]
    # Window n begins at pixel n of all padded images in a row; most of these windows are never looked at.
    count_windows = len(padded) * tall * wide - (height - 1) * wide - width + 1
    windows = padded.as_strided((count_windows, height, width * channels), (channels, wide * channels, 1))
    begins = (place * tall + moved[0]) * wide + moved[1]
    return windows.index_select(0, begins).view(count, height, width, channels)


def pad(batch: Tensor, reach: int, fill: Literal["black", "reflect"]) -> Tensor:
    """(B, H, W, C) -> (B, H + 2 reach, W + 2 reach, C)."""
    count, height, width, channels = batch.shape
    padded = batch.new_zeros((count, height + 2 * reach, width + 2 * reach, channels))
    padded[:, reach : reach + height, reach : reach + width] = batch
    if fill == "reflect":  # the border itself is not repeated: ... 2 1 0 1 2 ...
        for axis, length in ((1, height), (2, width)):
            for away in range(1, reach + 1):
                for outside, inside in ((-away, away), (length - 1 + away, length - 1 - away)):
                    padded.select(axis, reach + outside).copy_(padded.select(axis, reach + inside))
    return padded


@lru_cache(maxsize=16)
def _scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Kept on the device, and repeated along a row: three numbers at a time would be too few for a vector unit.
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.repeat(width), offset.repeat(width)  # (W C,)


def normalise(batch: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, H, W, C), 0 to 255 -> float32 (B, H, W, C), zero mean and unit variance over a typical set."""
    scale, offset = _scale_and_offset(mean, std, batch.shape[2], batch.device)
    return batch.flatten(2).float().mul_(scale).add_(offset).view(batch.shape)  # (B, H, W C) in between


def cutout_centres(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A pixel for each image, (2, B): its row and its column."""
    place = torch.rand(2, count, generator=generator, device=generator.device)
    return torch.stack((place[0] * height, place[1] * width)).long()


def cut_out(batch: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square around a pixel of each image to the mean, as far as it lies in the image.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.

    Args:
        batch: normalised, (B, H, W, C); changed in place.
        centres: row and column of each pixel, (2, B).
        side: of the square, in pixels.
    """
    top, left = (centres - side // 2)[:, :, None]  # (B, 1) each
    return batch.masked_fill_(_rectangles(top, left, top + side, left + side, *batch.shape[1:3]), 0.0)


def erased_rectangles(count: int, height: int, width: int, probability: float, generator: torch.Generator) -> Tensor:
    """Where the pixels to erase are, bool, (B, H, W, 1): a rectangle in some of the images.

    Source: Zhong et al., Random Erasing Data Augmentation, 2017.
    """
    chance, area, aspect, top, left = torch.rand(5, count, 1, generator=generator, device=generator.device)
    low, high = _ERASED_AREA
    pixels = (low + (high - low) * area) * height * width
    ratio = torch.exp((2 * aspect - 1) * -math.log(_ERASED_ASPECT))
    tall = (pixels * ratio).sqrt().round().clamp(1, height - 1 or 1)  # (B, 1)
    wide = (pixels / ratio).sqrt().round().clamp(1, width - 1 or 1)
    top = (top * (height - tall + 1)).floor()
    left = (left * (width - wide + 1)).floor()
    bottom = torch.where(chance < probability, top + tall, top)
    return _rectangles(top, left, bottom, left + wide, height, width)


def _rectangles(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    inside_rows = (rows >= top) & (rows < bottom)  # (B, H)
    inside_columns = (columns >= left) & (columns < right)  # (B, W)
    return inside_rows[:, :, None, None] & inside_columns[:, None, :, None]  # (B, H, W, 1)
