"""What can be chosen to make training steps fast, and what a configuration leaves to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

from vnas.config import TrainingConfig
from vnas.errors import ConfigError

Amp = Literal["off", "bf16", "fp16"]


@dataclass(frozen=True)
class Speed:
    """Layout, precision and compilation of training steps.

    Attributes:
        channels_last: whether weights and images lie in memory pixel by pixel, all channels of one side by side.
        amp: type that convolutions compute in, forward and backward; ``off`` is float32.
        compile: whether the net is compiled.
    """

    channels_last: bool
    amp: Amp
    compile: bool

    def __str__(self) -> str:
        """In words, as in ``channels_last bf16 compiled``."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return " ".join([layout, "float32" if self.amp == "off" else self.amp, *["compiled"] * self.compile])


@dataclass(frozen=True)
class Options:
    """The choices that there are for each of a :class:`Speed`'s attributes, the plain one first."""

    channels_last: tuple[bool, ...]
    amp: tuple[Amp, ...]
    compile: tuple[bool, ...]

    @property
    def plain(self) -> Speed:
        """The first of each."""
        return Speed(self.channels_last[0], self.amp[0], self.compile[0])

    @property
    def settled(self) -> bool:
        """Whether there is nothing to measure."""
        return len(self.channels_last) == len(self.amp) == len(self.compile) == 1

    @property
    def uncompiled(self) -> list[Speed]:
        """Every layout in every precision, the plainest first."""
        return [Speed(layout, amp, False) for amp, layout in product(self.amp, self.channels_last)]


def options_of(config: TrainingConfig, device: torch.device) -> Options:
    """What there is to choose from on a device; see :mod:`vnas.training.speed.choosing`.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    left: Literal["auto"] | None = "auto" if device.type == "cuda" else None
    layout = left if config.channels_last is None else config.channels_last
    compiled = left if config.compile is None else config.compile
    return Options(
        (False, True) if layout == "auto" else (layout is not False,),
        _precisions(left if config.amp is None else config.amp, device),
        (False, True) if compiled == "auto" else (compiled is True,),
    )


def _precisions(asked: bool | Literal["auto", "bf16", "fp16"] | None, device: torch.device) -> tuple[Amp, ...]:
    bf16 = device.type != "cuda" or _has_bf16(device)
    if asked == "bf16" and not bf16:
        raise ConfigError(
            f'training.amp = "bf16", but {torch.cuda.get_device_name(device)} has no bfloat16; '
            'write "fp16", or "auto" to have what is there measured'
        )
    if asked == "bf16" or asked == "fp16":
        return (asked,)
    half: Amp = "bf16" if bf16 else "fp16"
    if asked == "auto":
        return ("off", half)
    return (half,) if asked is True and device.type == "cuda" else ("off",)


def _has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
