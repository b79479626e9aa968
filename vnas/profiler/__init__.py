"""Honest latency of any callable: measured, with an interval, and with what it was measured on.

    from vnas.profiler import measure
    result = measure(net, image, device="cuda:0")
    result.median_ms, result.interval_ms, result.noise_ok, result.notes

It imports nothing of vnas but its errors, so the folder can be lifted out. Names are loaded at first use, so that
``python -m vnas.profiler --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vnas.profiler.devices import describe_devices, resolve_device
    from vnas.profiler.environment import Environment, capture_environment
    from vnas.profiler.measurement import Measurement
    from vnas.profiler.measuring import Progress, measure
    from vnas.profiler.timers import ReplayTimer

__all__ = [
    "Environment",
    "Measurement",
    "Progress",
    "ReplayTimer",
    "capture_environment",
    "describe_devices",
    "measure",
    "resolve_device",
]

_HOMES = {
    "Environment": "environment",
    "Measurement": "measurement",
    "Progress": "measuring",
    "ReplayTimer": "timers",
    "capture_environment": "environment",
    "describe_devices": "devices",
    "measure": "measuring",
    "resolve_device": "devices",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
