"""Mixup and cutmix: each image of a batch with its mirror in the batch, the first with the last.

Source: Zhang et al., mixup: Beyond Empirical Risk Minimization (arXiv 1710.09412); Yun et al., CutMix (arXiv
1905.04899). One share is drawn for a whole batch, as timm does by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vnas.config import TrainingConfig


@dataclass(frozen=True)
class Blend:
    """How two images become one.

    Attributes:
        share: of the image itself, 0 to 1; the other has the rest.
        box: rows and columns, each from and to, that the other image takes where the two are not blended.
    """

    share: float
    box: tuple[int, int, int, int] | None


class Mixing:
    """What a recipe does to a batch with mixup, cutmix or both.

    Args:
        config: gives ``mixup``, ``cutmix``, ``mixup_switch`` and ``label_smoothing``; one of the first two is not 0.
        num_classes: K.
    """

    def __init__(self, config: TrainingConfig, num_classes: int) -> None:
        from scipy.special import betaincinv

        self._quantile: Callable[[float, float, float], float] = betaincinv
        self._mixup, self._cutmix = config.mixup, config.cutmix
        self._switch = config.mixup_switch if config.mixup and config.cutmix else float(not config.mixup)
        self._smoothing = config.label_smoothing
        self._num_classes = num_classes

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: float32, (B, C, H, W); left as they are.
            labels: int64, (B,).
            generator: random numbers, best on the CPU whatever the device: they are looked at, and to look at those
                of a GPU is to wait for it.

        Returns:
            Mixed images in the layout of the images, and targets (B, K), smoothed, that add up to 1.
        """
        blend = self.draw(images.shape[2], images.shape[3], generator)
        if blend.box is None:
            mixed = images.flip(0).lerp_(images, blend.share)
        else:
            top, bottom, left, right = blend.box
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
        off = self._smoothing / self._num_classes
        targets = torch.full((len(labels), self._num_classes), off, device=labels.device)
        targets.scatter_(1, labels[:, None], 1.0 - self._smoothing + off)
        return mixed, targets.flip(0).lerp_(targets, blend.share)

    def draw(self, height: int, width: int, generator: torch.Generator) -> Blend:
        """The blend of one batch of images of a size."""
        uniform = torch.rand(4, generator=generator, device=generator.device, dtype=torch.float64)
        kind, level, row, column = uniform.tolist()
        if kind >= self._switch:
            return Blend(float(self._quantile(self._mixup, self._mixup, level)), None)
        share = float(self._quantile(self._cutmix, self._cutmix, level))
        # A box of that share of both sides around a point anywhere in the image, as far as it lies in the image.
        top, bottom = _cut(row, height, math.sqrt(1.0 - share))
        left, right = _cut(column, width, math.sqrt(1.0 - share))
        return Blend(1.0 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def _cut(place: float, length: int, share: float) -> tuple[int, int]:
    middle, side = int(place * length), int(length * share)
    return max(0, middle - side // 2), min(length, middle + (side + 1) // 2)
