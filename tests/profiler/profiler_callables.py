"""What package.module:function can find."""

from __future__ import annotations

from collections.abc import Callable

import torch


def doubling() -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: images * 2


def module() -> torch.nn.Module:
    return torch.nn.Conv2d(3, 4, 3)


def wrong_channels() -> torch.nn.Module:
    return torch.nn.Conv2d(5, 4, 3)


def failing() -> torch.nn.Module:
    raise FileNotFoundError("weights.bin")


def number() -> int:
    return 3


def interrupting() -> Callable[[torch.Tensor], torch.Tensor]:
    def stop(images: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    return stop


constant = 3
