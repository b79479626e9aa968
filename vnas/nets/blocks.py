"""The blocks of the training form. Each fuses itself, so ``timm.utils.reparameterize_model`` fuses the whole net.

Shapes: B batch, C channels, H and W sides in pixels, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vnas.errors import FuseError
from vnas.nets import algebra
from vnas.nets.activation import NORM_EPS, PadChannels, SeriesActivation, SlopedActivation
from vnas.nets.architecture import Architecture
from vnas.nets.base import Head
from vnas.nets.fused import FusedSeries, FusedStage, FusedStem, max_pool


class ConvPair(nn.Module):
    """Two convolutions that become one: k x k + BN, sloped activation, 1x1 + BN.

    The last batch norm is an identity in the head.
    """

    def __init__(self, conv1: nn.Conv2d, width: int, activation: str, normed: bool, factory: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm2d(conv1.out_channels, eps=NORM_EPS, **factory)
        self.act = SlopedActivation(activation, **factory)
        self.conv2 = nn.Conv2d(conv1.out_channels, width, 1, **factory)
        self.bn2 = nn.BatchNorm2d(width, eps=NORM_EPS, **factory) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        x = self.act(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(x))
        return out

    def folded(self) -> algebra.Affine:
        """The pair without its last batch norm as one convolution.

        Raises:
            FuseError: lambda is not 1.
        """
        slope = float(self.act.slope)
        if slope != 1.0:
            raise FuseError(
                f"a pair has lambda = {slope:g}; only lambda = 1 fuses exactly: call net.set_slope(1) first"
            )
        first = algebra.fold_norm(algebra.conv_terms(self.conv1), self.bn1)
        return algebra.fold_pointwise(first, algebra.conv_terms(self.conv2))

    def merged(self) -> MergedPair:
        """The pair as one trainable convolution before the last batch norm, which is taken over as it is."""
        return MergedPair(algebra.conv_like(self.conv1, self.folded()), self.bn2)


class MergedPair(nn.Module):
    """What a pair becomes at lambda = 1 while training goes on: one convolution and the second batch norm."""

    def __init__(self, conv: nn.Conv2d, bn: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        out: Tensor = self.bn(self.conv(x))
        return out


Pair = ConvPair | MergedPair


def fold_pair(pair: Pair) -> algebra.Affine:
    """The whole pair, last batch norm included, as one convolution (float64)."""
    if isinstance(pair, ConvPair):
        return algebra.fold_norm(pair.folded(), pair.bn2)
    return algebra.fold_norm(algebra.conv_terms(pair.conv), pair.bn)


def first_conv(pair: Pair) -> nn.Conv2d:
    """The convolution of a pair that has its stride and kernel."""
    return pair.conv1 if isinstance(pair, ConvPair) else pair.conv


class Projection(nn.Module):
    """The shortcut where shapes differ and the rule is "conv": 1x1 convolution and batch norm."""

    def __init__(self, width_in: int, width: int, factory: dict[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 1, **factory)
        self.bn = nn.BatchNorm2d(width, eps=NORM_EPS, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        out: Tensor = self.bn(self.conv(x))
        return out

    def folded(self) -> algebra.Affine:
        """One convolution."""
        return algebra.fold_norm(algebra.conv_terms(self.conv), self.bn)


class TrainStem(nn.Module):
    """Strided pair, series activation."""

    def __init__(self, arch: Architecture, merged: bool, factory: dict[str, Any]) -> None:
        super().__init__()
        stem = arch.stem
        conv = nn.Conv2d(arch.in_chans, stem.width, stem.kernel, stem.stride, stem.padding, **factory)
        self.activation = arch.activation
        self.pair = make_pair(conv, stem.width, arch.activation, merged, factory)
        self.act = SeriesActivation(stem.width, stem.series, arch.activation, arch.series_shift, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H', W')."""
        out: Tensor = self.act(self.pair(x))
        return out

    def fuse(self) -> FusedStem:
        """The stem as a strided convolution and a depthwise one. Raises FuseError unless lambda is 1."""
        weight, bias = fold_pair(self.pair)
        conv = algebra.conv_like(first_conv(self.pair), (weight, bias + _shift_of(self.act)))
        return FusedStem(conv, _fuse_series(self.act, self.activation)).train(self.training)


class TrainStage(nn.Module):
    """Pair, max pool, series activation, and the residual if there is one.

    y = act(pool(pair(x) + P(x))) before the activation, y = act(pool(pair(x))) + P(pool(x)) after it.
    """

    def __init__(self, arch: Architecture, index: int, merged: bool, factory: dict[str, Any]) -> None:
        super().__init__()
        width_in, stage = arch.widths[index], arch.stages[index]
        conv = nn.Conv2d(width_in, stage.width if merged else width_in, 1, **factory)
        self.activation = arch.activation
        self.pair = make_pair(conv, stage.width, arch.activation, merged, factory)
        self.pool = max_pool(stage)
        self.act = SeriesActivation(stage.width, stage.series, arch.activation, arch.series_shift, **factory)
        self.adds_before = stage.residual == "before_activation"
        self.adds_after = stage.residual == "after_activation"
        rule = arch.shortcut(index)
        self.shortcut: nn.Module = nn.Identity()
        if rule == "conv":
            self.shortcut = Projection(width_in, stage.width, factory)
        elif rule is not None:
            self.shortcut = PadChannels(width_in, stage.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        y: Tensor = self.pair(x)
        if self.adds_before:
            y = y + self.shortcut(x)
        y = self.act(self.pool(y))
        if self.adds_after:
            y = y + self.shortcut(self.pool(x))
        return y

    def fuse(self) -> FusedStage:
        """The stage as a 1x1 convolution and a depthwise one. Raises FuseError unless lambda is 1."""
        weight, bias = fold_pair(self.pair)
        shortcut = None
        if self.adds_before:
            extra = self._shortcut_terms(weight)
            weight, bias = weight + extra[0], bias + extra[1]
        elif self.adds_after:
            shortcut = self.shortcut
            if isinstance(shortcut, Projection):
                shortcut = algebra.conv_like(shortcut.conv, shortcut.folded())
        conv = algebra.conv_like(first_conv(self.pair), (weight, bias + _shift_of(self.act)))
        return FusedStage(conv, self.pool, _fuse_series(self.act, self.activation), shortcut).train(self.training)

    def _shortcut_terms(self, like: Tensor) -> algebra.Affine:
        if isinstance(self.shortcut, Projection):
            return self.shortcut.folded()
        return algebra.rectangular_identity(like.shape[0], like.shape[1], like), like.new_zeros(like.shape[0])


class TrainHead(Head):
    """The head whose classifier is a pair: 1x1 to the classes + BN, sloped activation, 1x1 classes to classes."""

    def fuse(self) -> Head:
        """The head with one 1x1 convolution. Raises FuseError unless lambda is 1."""
        fc = self.fc
        if isinstance(fc, ConvPair | MergedPair):
            fc = algebra.conv_like(first_conv(fc), fold_pair(fc))
        return Head(fc, self.drop.p, pools=self.pools).train(self.training)


def make_pair(
    conv: nn.Conv2d, width: int, activation: str, merged: bool, factory: dict[str, Any], *, normed: bool = True
) -> Pair:
    """A fresh pair around its first convolution, or the merged form of one."""
    if not merged:
        return ConvPair(conv, width, activation, normed, factory)
    return MergedPair(conv, nn.BatchNorm2d(width, eps=NORM_EPS, **factory) if normed else nn.Identity())


def _shift_of(act: SeriesActivation) -> Tensor | float:
    """The shift b inside A: it commutes with max pooling, so it joins the bias of the convolution before the pool."""
    return 0.0 if act.shift is None else act.shift.detach().double()


def _fuse_series(act: SeriesActivation, activation: str) -> FusedSeries:
    return FusedSeries(activation, algebra.conv_like(act.conv, algebra.fold_norm(algebra.conv_terms(act.conv), act.bn)))
