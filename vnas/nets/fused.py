"""The deployed form: one convolution and one depthwise convolution a layer.

Shapes: B batch, C channels, H and W sides in pixels, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vnas.nets.activation import PadChannels, base_activation
from vnas.nets.architecture import Architecture, Stage
from vnas.nets.base import Head, PlainNet


class FusedSeries(nn.Module):
    """The series activation with its batch norm and shift folded away: A, then a depthwise convolution."""

    def __init__(self, activation: str, conv: nn.Conv2d) -> None:
        super().__init__()
        self.base = base_activation(activation)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in and out."""
        out: Tensor = self.conv(self.base(x))
        return out


class FusedStem(nn.Module):
    """Strided convolution, series activation."""

    def __init__(self, conv: nn.Conv2d, act: FusedSeries) -> None:
        super().__init__()
        self.conv = conv
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H', W')."""
        out: Tensor = self.act(self.conv(x))
        return out


class FusedStage(nn.Module):
    """1x1 convolution, max pool, series activation; a residual after the activation stays as an addition."""

    def __init__(self, conv: nn.Conv2d, pool: nn.Module, act: FusedSeries, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.pool = pool
        self.act = act
        self.adds_after = shortcut is not None
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        y: Tensor = self.act(self.pool(self.conv(x)))
        if self.adds_after:
            y = y + self.shortcut(self.pool(x))
        return y


def max_pool(stage: Stage) -> nn.Module:
    """The pool of a stage; an identity where it does not downsample."""
    if not stage.pools:
        return nn.Identity()
    return nn.MaxPool2d(stage.stride) if stage.pool_to is None else nn.AdaptiveMaxPool2d(stage.pool_to)


class FusedVanillaNet(PlainNet):
    """A VanillaNet as it is deployed and timed: no batch norm, no slope, no shift, half of the layers.

    ``fuse`` makes one from a trained net. Made from an architecture it has PyTorch's own initial weights, which keep
    every map at an ordinary scale, so that a latency measured before training meets no denormal numbers.

    Args:
        arch: What to build.
        device: Where; "meta" allocates nothing.
        dtype: Of the weights.
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        stem, activation = arch.stem, arch.activation
        super().__init__(
            arch,
            FusedStem(
                nn.Conv2d(arch.in_chans, stem.width, stem.kernel, stem.stride, stem.padding, **factory),
                _series(stem.width, stem.series, activation, factory),
            ),
            [
                FusedStage(
                    nn.Conv2d(width_in, stage.width, 1, **factory),
                    max_pool(stage),
                    _series(stage.width, stage.series, activation, factory),
                    _shortcut_after(arch, index, factory),
                )
                for index, (width_in, stage) in enumerate(zip(arch.widths, arch.stages, strict=False))
            ],
            Head(_linear(arch.widths[-1], arch.num_classes, factory), arch.dropout),
        )

    @property
    def form(self) -> str:
        """Always "fused"."""
        return "fused"

    def _classifier(self, num_classes: int) -> nn.Module:
        like = next(self.parameters())
        return _linear(self.num_features, num_classes, {"device": like.device, "dtype": like.dtype})


def _series(width: int, n: int, activation: str, factory: dict[str, Any]) -> FusedSeries:
    return FusedSeries(activation, nn.Conv2d(width, width, 2 * n + 1, padding=n, groups=width, **factory))


def _shortcut_after(arch: Architecture, index: int, factory: dict[str, Any]) -> nn.Module | None:
    """The shortcut that a fused stage keeps; one before the activation is inside its convolution."""
    rule, stage = arch.shortcut(index), arch.stages[index]
    if rule is None or stage.residual == "before_activation":
        return None
    if rule == "conv":
        return nn.Conv2d(arch.widths[index], stage.width, 1, **factory)
    return PadChannels(arch.widths[index], stage.width)


def _linear(width: int, num_classes: int, factory: dict[str, Any]) -> nn.Module:
    return nn.Conv2d(width, num_classes, 1, **factory) if num_classes else nn.Identity()
