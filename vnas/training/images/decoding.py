"""From samples to pixels of one size.

Shapes: N images, C channels, H x W pixels, S = H = W once resized.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as images

from vnas.training.images.cache import Cache, Pixels, cache_key
from vnas.training.images.samples import CHANNELS, ArraySamples, Samples
from vnas.training.images.splits import Indices

# Up to this size an image is shown whole; above it the centre is cropped, as timm evaluates (crop_pct .875).
WHOLE_UP_TO = 64
CROP_SHARE = 0.875


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


def decoded(
    samples: Samples, indices: Indices, image_size: int, cache: Cache | None, whole_mib: float = math.inf
) -> Tensor:
    """Some images of a set, resized.

    With a cache, all images of the set are decoded, so that every way to cut it finds them there; but not for a small
    part of a set that is too large to be held in memory.

    Args:
        samples: the set.
        indices: of the images that are wanted.
        image_size: S.
        cache: where decoded sets are kept, or None. What is an array already, or could not be told from another set
            without decoding it, is not kept.
        whole_mib: largest set that is decoded as a whole where less than half of it is wanted.

    Returns:
        uint8, (N, C, S, S), channels last.

    Raises:
        DataError: an image cannot be decoded.
    """
    if isinstance(samples, ArraySamples) and isinstance(samples.images, np.ndarray):
        stacked = torch.from_numpy(samples.images[indices])  # (N, H, W) grey, (N, H, W, C) colour
        stacked = stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)  # (N, C, H, W)
        return upsample(stacked, image_size).contiguous(memory_format=torch.channels_last)
    shape = (len(samples.targets), image_size, image_size, CHANNELS[samples.mode])
    whole = 2 * len(indices) >= shape[0] or math.prod(shape) <= whole_mib * 2**20
    content = samples.content() if cache is not None and whole and cache.takes(shape) else None
    if cache is None or content is None:
        return _channels_first(_decode(samples, indices, image_size))
    everything = cache.pixels(
        cache_key(content, image_size),
        shape,
        lambda: _decode(samples, np.arange(shape[0], dtype=np.int64), image_size),
    )
    return _channels_first(everything[indices])


def _channels_first(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2)  # (N, S, S, C) -> (N, C, S, S)


def _decode(samples: Samples, indices: Indices, image_size: int) -> Pixels:
    channels = CHANNELS[samples.mode]
    pixels = np.empty((len(indices), image_size, image_size, channels), dtype=np.uint8)
    for position, index in enumerate(indices):
        image = np.asarray(resize(samples.image(int(index)), image_size))
        pixels[position] = image.reshape(image_size, image_size, channels)
    return pixels
