"""The training form: pairs of convolutions with an activation between them that anneals to the identity.

Shapes: B batch, C channels, H and W sides in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vnas.nets.architecture import Architecture
from vnas.nets.base import PlainNet
from vnas.nets.blocks import ConvPair, TrainHead, TrainStage, TrainStem, make_pair


class VanillaNet(PlainNet):
    """A VanillaNet to train.

    A fresh net has lambda = 0 everywhere; ``set_slope`` moves it, ``fuse`` needs 1. Convolutions start from a truncated
    normal distribution of standard deviation 0.02 with zero biases, as in the official code.

    Args:
        arch: What to build.
        merged: Each pair as one convolution and one batch norm, the form that ``merge`` makes; for loading its weights.
        device: Where; "meta" allocates nothing.
        dtype: Of the weights.
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        merged: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            arch,
            TrainStem(arch, merged, factory),
            [TrainStage(arch, index, merged, factory) for index in range(len(arch.stages))],
            TrainHead(_classifier(arch, arch.widths[-1], merged, factory), arch.dropout),
        )
        self.merged = merged
        _init_convs(self)

    @property
    def form(self) -> str:
        """One of "training", "merged" and, after ``timm.utils.reparameterize_model``, "fused"."""
        if not isinstance(self.stem, TrainStem):
            return "fused"
        return "merged" if self.merged else "training"

    @property
    def pairs(self) -> dict[str, ConvPair]:
        """The pairs that have a lambda, by module name: stem, stages, head."""
        return {name: module for name, module in self.named_modules() if isinstance(module, ConvPair)}

    @property
    def num_pairs(self) -> int:
        """How many lambdas there are: layers in the training form, 0 in the merged form."""
        return len(self.pairs)

    @property
    def slopes(self) -> tuple[float, ...]:
        """Every lambda: stem, stages, head."""
        return tuple(float(pair.act.slope) for pair in self.pairs.values())

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_slope(self, lambda_: float | Sequence[float]) -> None:
        """Set lambda in place: a compiled net stays compiled, a captured CUDA graph sees the new value.

        Args:
            lambda_: One value in [0, 1] for every pair, or one a pair in the order stem, stages, head.

        Raises:
            ValueError: A value outside [0, 1], a wrong number of values, or a value below 1 for a merged net.
        """
        pairs = list(self.pairs.values())
        values = [float(v) for v in lambda_] if isinstance(lambda_, Sequence) else [float(lambda_)] * max(len(pairs), 1)
        for value in values:
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"lambda is {value}; it must be from 0 to 1")
        if not pairs:
            if any(value != 1.0 for value in values):
                raise ValueError(f"lambda is {min(values)} but the pairs are merged: it stays at 1")
            return
        if len(values) != len(pairs):
            raise ValueError(
                f"{len(values)} values of lambda arrived for {len(pairs)} pairs (stem, {len(self.stages)} stages"
                f"{', head' if self.num_classes else ''}); give one value or {len(pairs)}"
            )
        with torch.no_grad():
            for pair, value in zip(pairs, values, strict=True):
                pair.act.slope.fill_(value)

    def _classifier(self, num_classes: int) -> nn.Module:
        like = next(self.parameters())
        factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        if self.form == "fused":
            return nn.Conv2d(self.num_features, num_classes, 1, **factory) if num_classes else nn.Identity()
        fc = _classifier(self.architecture, self.num_features, self.merged, factory)
        _init_convs(fc)
        if isinstance(fc, ConvPair):
            # A fresh classifier goes on at the lambda that the schedule has reached.
            with torch.no_grad():
                fc.act.slope.copy_(list(self.pairs.values())[-1].act.slope)
        return fc


def build(
    arch: Architecture, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> VanillaNet:
    """The training form of an architecture, at lambda = 0.

    Args:
        arch: What to build.
        device: Where; "meta" allocates nothing.
        dtype: Of the weights.
    """
    return VanillaNet(arch, device=device, dtype=dtype)


def _classifier(arch: Architecture, width: int, merged: bool, factory: dict[str, Any]) -> nn.Module:
    if not arch.num_classes:
        return nn.Identity()
    conv = nn.Conv2d(width, arch.num_classes, 1, **factory)
    return make_pair(conv, arch.num_classes, arch.activation, merged, factory, normed=False)


def _init_convs(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
