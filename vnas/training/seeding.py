"""Random numbers of one run: seeded on entry, and the caller's streams as they were on leaving."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run the body with every global random stream seeded, then put the streams back.

    Initialisation and dropout draw from torch's stream, timm's Mixup from numpy's, RandAugment from Python's.

    Args:
        seed: any non-negative integer.
        device: the device whose stream counts too, where it is not the CPU.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
