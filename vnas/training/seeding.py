"""Random numbers of one run: seeded on entry, and the caller's streams as they were on leaving."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run the body with every global random stream seeded, then put the streams back.

    Initialisation and dropout draw from torch's stream, timm's augmentations from numpy's and Python's.

    Args:
        seed: any non-negative integer.
        device: the device whose stream counts too, where it is not the CPU.
    """
    outside = random_state(device)
    try:
        _seed(seed)
        yield
    finally:
        set_random_state(outside, device)


class Streams:
    """The global random streams of a run that works now and then: in place while it does, set aside meanwhile.

    Args:
        seed: of the streams, any non-negative integer.
        device: the device whose stream counts too, where it is not the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with seeded(seed, device):
            self._state = random_state(device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run the body with these streams, then put the caller's back."""
        outside = random_state(self._device)
        try:
            set_random_state(self._state, self._device)
            yield
        finally:
            self._state = random_state(self._device)
            set_random_state(outside, self._device)


def derived_seed(seed: int, purpose: str) -> int:
    """Another seed of 32 bits, for a stream that must not repeat what one of the same seed draws."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """Where every global random stream is, as tensors and plain values.

    Args:
        device: the device whose stream counts too, where it is not the CPU.
    """
    numpy_state: Any = np.random.get_state()
    name, words, *place = numpy_state
    on_gpu = device is not None and device.type == "cuda"
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words.astype(np.int64)), *place),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device is not None and on_gpu else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Go back to what :func:`random_state` gave for the device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, numpy_words, *place = state["numpy"]
    np.random.set_state((name, numpy_words.numpy().astype(np.uint32), *place))
    torch.set_rng_state(state["torch"])
    if device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
