"""Batches of images as tensors: resizing once, and augmenting many at a time without a loop over samples.

Shapes: B images in a batch, N in a set, C channels, H x W pixels, S = H = W once resized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import functional as images

# Up to this size an image is shown whole; above it the centre is cropped, as timm evaluates (crop_pct .875).
WHOLE_UP_TO = 64
CROP_SHARE = 0.875
# Area and aspect ratio of what is erased: Zhong et al., Random Erasing (arXiv 1708.04896).
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = 0.3


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised by, on the scale 0 to 1.

    ImageNet's for three channels, a half each for one; the same for every split, pipeline and image size, so that a
    net's weights say all there is to say about its input.
    """
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if channels == 3 else ((0.5,), (0.5,))


def crop_share(image_size: int) -> float:
    """Share of the resized image's side that the centre crop keeps."""
    return 1.0 if image_size <= WHOLE_UP_TO else CROP_SHARE


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """Bring the shorter side to the size (above 64 px: to size / .875), then crop the centre."""
    shorter = math.floor(image_size / crop_share(image_size))
    if image.size != (shorter, shorter):
        image = images.resize(image, [shorter], images.InterpolationMode.BILINEAR)
    if image.size != (image_size, image_size):
        image = images.center_crop(image, [image_size])
    return image


def upsample(batch: Tensor, image_size: int) -> Tensor:
    """Resize grey or colour images of one small size, as tensors.

    Args:
        batch: uint8, (N, C, H, W).
        image_size: S.

    Returns:
        uint8, (N, C, S, S).
    """
    resized = F.interpolate(batch.float(), size=(image_size, image_size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class BatchAugmentation:
    """What happens to a training batch of uint8 images that are already on the device.

    Attributes:
        flip: mirror each image with probability one half.
        crop_padding: pixels of black added to each side before a random crop of the original size.
        random_erasing: probability that a rectangle of an image becomes noise.
        mean: see :func:`statistics`.
        std: see :func:`statistics`.
    """

    flip: bool
    crop_padding: int
    random_erasing: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Augment and normalise.

        Args:
            batch: uint8, (B, C, H, W).
            generator: random numbers, on the batch's device.

        Returns:
            float32, (B, C, H, W).
        """
        if self.flip:
            mirrored = torch.rand(len(batch), generator=generator, device=batch.device) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        if self.crop_padding:
            batch = translate(batch, self.crop_padding, generator)
        normalised = normalise(batch, self.mean, self.std)
        if self.random_erasing:
            normalised = erase(normalised, self.random_erasing, generator)
        return normalised


def normalise(batch: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, C, H, W), 0 to 255 -> float32 (B, C, H, W), zero mean and unit variance over a typical set."""
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=batch.device)
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=batch.device)
    return batch.float().mul_(scale[:, None, None]).add_(offset[:, None, None])


def translate(batch: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``padding`` pixels in both directions; what comes in is black."""
    height, width = batch.shape[2:]
    padded = F.pad(batch, (padding,) * 4)  # (B, C, H + 2p, W + 2p)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W), a view
    place = torch.randint(2 * padding + 1, (2, len(batch)), generator=generator, device=batch.device)
    return windows[torch.arange(len(batch), device=batch.device), :, place[0], place[1]]  # (B, C, H, W)


def erase(batch: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill one rectangle of some images with unit normal noise."""
    count, _, height, width = batch.shape
    chance, area, aspect, top, left = torch.rand(5, count, 1, generator=generator, device=batch.device)
    low, high = _ERASED_AREA
    pixels = (low + (high - low) * area) * height * width
    ratio = torch.exp((2 * aspect - 1) * -math.log(_ERASED_ASPECT))
    tall = (pixels * ratio).sqrt().round().clamp(1, height - 1 or 1)  # (B, 1)
    wide = (pixels / ratio).sqrt().round().clamp(1, width - 1 or 1)
    top = (top * (height - tall + 1)).floor()
    left = (left * (width - wide + 1)).floor()
    rows = torch.arange(height, device=batch.device)
    columns = torch.arange(width, device=batch.device)
    inside_rows = (rows >= top) & (rows < top + tall) & (chance < probability)  # (B, H)
    inside_columns = (columns >= left) & (columns < left + wide)  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (B, 1, H, W)
    noise = torch.randn(batch.shape, generator=generator, device=batch.device)
    return torch.where(inside, noise, batch)
