"""Honest latency of any callable: measured, with an interval, and with what it was measured on.

    from vnas.profiler import measure
    result = measure(net, image, device="cuda:0")
    result.median_ms, result.interval_ms, result.noise_ok, result.notes

``measure`` works in this process; ``replicate`` measures nets by name in fresh ones, which is what the command does.

It imports nothing of vnas but its errors, so the folder can be lifted out. Names are loaded at first use, so that
``python -m vnas.profiler --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vnas.profiler.blocks import Block
    from vnas.profiler.devices import describe_devices, resolve_device
    from vnas.profiler.energy import Energy
    from vnas.profiler.environment import Environment, capture_environment
    from vnas.profiler.layer_table import LayerBreakdown
    from vnas.profiler.layers import layer_breakdown
    from vnas.profiler.lock import device_lock
    from vnas.profiler.measurement import Measurement
    from vnas.profiler.measuring import measure
    from vnas.profiler.numerics import NumericalError
    from vnas.profiler.plan import Cell, Rules
    from vnas.profiler.protocol import Progress
    from vnas.profiler.replication import replicate
    from vnas.profiler.timers import ReplayTimer

__all__ = [
    "Block",
    "Cell",
    "Energy",
    "Environment",
    "LayerBreakdown",
    "Measurement",
    "NumericalError",
    "Progress",
    "ReplayTimer",
    "Rules",
    "capture_environment",
    "describe_devices",
    "device_lock",
    "layer_breakdown",
    "measure",
    "replicate",
    "resolve_device",
]

_HOMES = {
    "Block": "blocks",
    "Cell": "plan",
    "Energy": "energy",
    "Environment": "environment",
    "LayerBreakdown": "layer_table",
    "Measurement": "measurement",
    "NumericalError": "numerics",
    "Progress": "protocol",
    "ReplayTimer": "timers",
    "Rules": "plan",
    "capture_environment": "environment",
    "describe_devices": "devices",
    "device_lock": "lock",
    "layer_breakdown": "layers",
    "measure": "measuring",
    "replicate": "replication",
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
