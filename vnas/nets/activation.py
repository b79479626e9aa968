"""The two activations of the paper: one that anneals to the identity, one informed by a series of neighbours.

Shapes: B batch, C channels, H and W sides in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vnas.nets.architecture import ACTIVATIONS

NORM_EPS = 1e-6
"""Epsilon of every batch norm, as in the official code."""

_BASES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
assert tuple(_BASES) == ACTIVATIONS


def base_activation(name: str) -> nn.Module:
    """The base activation A of this name, one of ``ACTIVATIONS``."""
    return _BASES[name]()


class SlopedActivation(nn.Module):
    """A'(x) = (1 - lambda) A(x) + lambda x; exactly x at lambda = 1.

    lambda is the buffer ``slope``, a tensor of one element: a checkpoint carries it, and changing it in place neither
    recompiles a compiled net nor synchronises with the device.

    Source: VanillaNet (arXiv 2305.12972), deep training strategy.
    """

    def __init__(
        self, name: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.base = base_activation(name)
        self.rectifies = name == "relu"
        self.slope: Tensor
        self.register_buffer("slope", torch.zeros(1, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same shape out."""
        slope = self.slope.to(x.dtype)
        if self.rectifies:
            # With A = ReLU the sum is a leaky ReLU of slope lambda: one kernel instead of two.
            return F.prelu(x, slope)
        return torch.lerp(self.base(x), x, slope)


class SeriesActivation(nn.Module):
    """A_s(x)[h, w, c] = sum over i, j in -n..n of a[i, j, c] A(x[h + i, w + j, c] + b[c]), then batch norm.

    The sum is a depthwise convolution with padding n; n = 0 leaves a scale per channel. The shift b is optional.

    Source: VanillaNet (arXiv 2305.12972), series informed activation function.
    """

    def __init__(
        self,
        width: int,
        n: int,
        activation: str,
        shift: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.base = base_activation(activation)
        self.shift = nn.Parameter(torch.zeros(width, device=device, dtype=dtype)) if shift else None
        self.conv = nn.Conv2d(width, width, 2 * n + 1, padding=n, groups=width, bias=False, device=device, dtype=dtype)
        self.bn = nn.BatchNorm2d(width, eps=NORM_EPS, device=device, dtype=dtype)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in and out."""
        if self.shift is not None:
            x = x + self.shift.view(-1, 1, 1)  # (C,) -> (C, 1, 1)
        out: Tensor = self.bn(self.conv(self.base(x)))
        return out


class PadChannels(nn.Module):
    """The rectangular identity: channels cut, or padded with zeros, to ``width``."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.extra = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))
