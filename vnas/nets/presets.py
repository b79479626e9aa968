"""The published family: widths, strides and pools of each VanillaNet, as plain data.

Source: VanillaNet (arXiv 2305.12972), table of architectures, and the official code for the two 1.5x nets.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """One published net.

    Attributes:
        widths: Output channels, stem first.
        strides: Max-pool strides of the stages.
        pools: Adaptive max-pool side of each stage in pixels, or None for a plain pool.
        stem_stride: Stride of the 4x4 stem convolution.
        stem_padding: Padding of the stem convolution.
        image_size: Side of the square input in pixels that the net was published for.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    pools: tuple[int | None, ...]
    stem_stride: int = 4
    stem_padding: int = 0
    image_size: int = 224


def _plain(widths: tuple[int, ...], strides: tuple[int, ...]) -> Preset:
    return Preset(widths, strides, (None,) * len(strides))


def _deep(middle: int, scale: int = 128) -> Preset:
    """VanillaNet-8 and up: they differ only in how many stages are 16 * scale wide."""
    widths = (4 * scale, 4 * scale, 8 * scale, *(16 * scale,) * middle, 32 * scale, 32 * scale)
    return _plain(widths, (1, 2, 2, *(1,) * (middle - 1), 2, 1))


_X1_5 = _deep(7, scale=192)

PRESETS: dict[str, Preset] = {
    "vanillanet_5": _plain((512, 1024, 2048, 4096), (2, 2, 2)),
    "vanillanet_6": _plain((512, 1024, 2048, 4096, 4096), (2, 2, 2, 1)),
    "vanillanet_7": _plain((512, 512, 1024, 2048, 4096, 4096), (1, 2, 2, 2, 1)),
    **{f"vanillanet_{depth}": _deep(depth - 6) for depth in range(8, 14)},
    "vanillanet_13_x1_5": _X1_5,
    "vanillanet_13_x1_5_ada_pool": Preset(
        _X1_5.widths,
        _X1_5.strides,
        (None, 38, 19, None, None, None, None, None, None, 10, None),
        stem_stride=3,
        stem_padding=1,
        image_size=384,
    ),
}
