"""Measurements to compare, draw and write, from samples that a test chooses."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from vnas.profiler.blocks import Block
from vnas.profiler.environment import Environment, capture_environment
from vnas.profiler.measurement import Measurement
from vnas.profiler.results import Entry


@lru_cache(maxsize=1)
def an_environment() -> Environment:
    return dataclasses.replace(
        capture_environment(torch.device("cpu")),
        device_kind="A CPU, 2 CPUs",
        device_type="cpu",
        torch="2.9.0",
        threads=2,
        date_utc="2025-01-01T00:00:00+00:00",
    )


def a_measurement(by_process: Sequence[Sequence[float]], **changes: Any) -> Measurement:
    """Samples by process, one round each."""
    samples = tuple(sample for process in by_process for sample in process)
    median = statistics.median(samples)
    fields: dict[str, Any] = {
        "median_ms": median,
        "interval_ms": (median * 0.995, median * 1.005),
        "interval_level": 0.95,
        "interval_method": "between processes" if len(by_process) > 1 else "one process",
        "samples_ms": samples,
        "stop_reason": "target met",
        "noise_ok": True,
        "target_relative": 0.01,
        "warmup_iterations": 5,
        "warmup_seconds": 0.1,
        "device": "cpu",
        "runtime": "eager",
        "timer": "replay",
        "precision": "fp32",
        "layout": "contiguous",
        "input_shapes": ((1, 3, 224, 224),),
        "input_dtypes": ("float32",),
        "environment": an_environment(),
        "processes": len(by_process),
        "blocks": tuple(Block(number, 0, 0.0, len(taken)) for number, taken in enumerate(by_process)),
    }
    return Measurement(**{**fields, **changes})


def an_entry(
    by_process: Sequence[Sequence[float]],
    net: str = "timm:resnet18",
    form: str = "eval",
    image_size: int | None = 224,
    **changes: Any,
) -> Entry:
    return Entry(net, form, image_size, a_measurement(by_process, **changes))


def elsewhere(entry: Entry, **changes: Any) -> Entry:
    """The same, in an environment with these changes."""
    environment = dataclasses.replace(entry.measurement.environment, **changes)
    return dataclasses.replace(entry, measurement=dataclasses.replace(entry.measurement, environment=environment))
