"""What package.module:function can find."""

from __future__ import annotations

import os
import sys
import time
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


def greedy() -> Callable[[torch.Tensor], torch.Tensor]:
    def grab(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    return grab


def huge() -> torch.nn.Module:
    return torch.nn.Linear(2**30, 2**30)  # more than any machine has


def sleeping() -> Callable[[torch.Tensor], None]:
    return lambda images: time.sleep(1.0)


def chatty() -> Callable[[torch.Tensor], torch.Tensor]:
    """Prints as libraries do, by Python and by the process's own descriptor, and reads what is not for it."""

    def shout(images: torch.Tensor) -> torch.Tensor:
        sys.stdout.write("printed\n")
        sys.stdout.flush()
        os.write(1, b"written\n")
        assert os.read(0, 1) == b""
        return images * 2

    return shout


constant = 3
