"""A net drawn as an inline SVG: one block a layer, as high as its feature map, as wide as its channels are many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vnas.errors import ArchitectureError

if TYPE_CHECKING:
    from vnas.nets.architecture import Architecture

_TOP, _TALL, _GAP = 26, 64, 22
_RESIDUALS = {"none": "", "before_activation": " +pre", "after_activation": " +post"}


@dataclass(frozen=True)
class _Layer:
    kind: str
    operation: str
    channels: int
    order: str
    side: int

    @property
    def below(self) -> str:
        return f"{self.channels} {self.order}".strip()


def _layers(net: Architecture) -> list[_Layer]:
    sizes, stem = net.feature_sizes, net.stem
    layers = [
        _Layer("input", "input", net.in_chans, "", net.image_size),
        _Layer("stem", f"{stem.kernel}x{stem.kernel}/{stem.stride}", stem.width, f"n={stem.series}", sizes[0]),
    ]
    for stage, size in zip(net.stages, sizes[1:], strict=True):
        pool = "" if not stage.pools else f" ↓{stage.stride}" if stage.pool_to is None else f" →{stage.pool_to}"
        operation = f"1x1{pool}{_RESIDUALS[stage.residual]}"
        layers.append(_Layer("stage", operation, stage.width, f"n={stage.series}", size))
    if net.num_classes:
        layers.append(_Layer("head", "head", net.num_classes, "", 1))
    return layers


def _block(x: float, width: float, height: float, layer: _Layer) -> str:
    centre, top = x + width / 2, _TOP + (_TALL - height) / 2
    return (
        f'<rect class="{layer.kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"/>'
        f'<text x="{centre:.1f}" y="{_TOP - 8}">{layer.side}²</text>'
        f'<text x="{centre:.1f}" y="{_TOP + _TALL + 16}">{escape(layer.operation)}</text>'
        f'<text class="faint" x="{centre:.1f}" y="{_TOP + _TALL + 30}">{escape(layer.below)}</text>'
    )


def draw_net(architecture: Mapping[str, Any], title: str) -> str | None:
    """A drawing of the fused net.

    Args:
        architecture: as ``Architecture.from_dict`` reads it.
        title: what the drawing is called for who cannot see it.

    Returns:
        SVG that takes its colours from the page; None where the architecture cannot be read.
    """
    from vnas.nets.architecture import Architecture

    try:
        net = Architecture.from_dict(architecture)
    except ArchitectureError:
        return None
    parts: list[str] = []
    edges: list[tuple[float, float]] = []
    x = 4.0
    for layer in _layers(net):
        width = 14 + 7 * math.log2(layer.channels)
        height = 8 + (_TALL - 8) * math.log2(layer.side + 1) / math.log2(net.image_size + 1)
        # A character of the page's monospaced font is 6.7 px wide.
        slot = max(width, 6.7 * max(len(layer.operation), len(layer.below)))
        left = x + (slot - width) / 2
        parts.append(_block(left, width, height, layer))
        edges.append((left, left + width))
        x += slot + _GAP
    middle = _TOP + _TALL / 2
    lines = "".join(
        f'<line x1="{right + 2:.1f}" x2="{left - 2:.1f}" y1="{middle}" y2="{middle}"/>'
        for (_, right), (left, _) in itertools.pairwise(edges)
    )
    total, tall = x - _GAP + 4, _TOP + _TALL + 36
    return (
        f'<svg class="net" role="img" aria-label="{escape(title)}" viewBox="0 0 {total:.0f} {tall}" '
        f'width="{total:.0f}" height="{tall}">{lines}{"".join(parts)}</svg>'
    )
