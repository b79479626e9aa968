"""A measurement in one line, and in a row of a table: only the digits that the interval leaves significant."""

from __future__ import annotations

import math

from vnas.profiler.measurement import Measurement
from vnas.profiler.telemetry import Snapshot

COLUMNS = ("net", "form", "batch", "median ms", "95 % interval", "n", "noise")
GPU_COLUMNS = (*COLUMNS, "host ms", "graph ms", "launch-bound")


def decimals(width: float) -> int:
    """Decimals that show two significant digits of an interval's width, from 0 to 4."""
    if width <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(width)), 0), 4)


def milliseconds(result: Measurement) -> tuple[str, str]:
    """Median and interval, e.g. ``("12.31", "12.28 - 12.36")``."""
    low, high = result.interval_ms
    digits = decimals(high - low)
    return f"{result.median_ms:.{digits}f}", f"{low:.{digits}f} - {high:.{digits}f}"


def measurement_line(name: str, form: str, result: Measurement) -> str:
    """Net, form, precision, layout, batch, median, interval, n, device, clock, temperature, noise target."""
    median, interval = milliseconds(result)
    environment = result.environment
    where = environment.device_kind
    if environment.device_type == "cpu":
        where += f", {environment.threads} thread{'s' if environment.threads != 1 else ''}"
    parts = [
        f"{name} {form}",
        f"{result.precision or 'precision unknown'} {result.layout or ''}".strip(),
        f"batch {result.batch if result.batch is not None else 'unknown'}",
        f"{median} ms [{interval}]",
        f"n={result.n}",
        where,
        _clock(result.telemetry[-1] if result.telemetry else None),
        _temperature(result.telemetry[-1] if result.telemetry else None),
        f"noise target {'met' if result.noise_ok else 'missed'}",
    ]
    if result.throttled:
        parts.append("THROTTLED")
    if result.contention == "yes":
        parts.append("CONTENTION")
    return "  ".join(parts)


def measurement_row(name: str, form: str, result: Measurement) -> tuple[str, ...]:
    """One row, in the order of ``COLUMNS`` on a CPU and ``GPU_COLUMNS`` on a GPU; ``-`` where there is nothing."""
    median, interval = milliseconds(result)
    batch = "-" if result.batch is None else str(result.batch)
    row = (name, form, batch, median, interval, str(result.n), "met" if result.noise_ok else "missed")
    if result.environment.device_type == "cpu":
        return row
    low, high = result.interval_ms
    digits = decimals(high - low)
    bound = {True: "yes", False: "no", None: "-"}[result.launch_bound]
    return (*row, _optional(result.host_ms, digits), _optional(result.graph_ms, digits), bound)


def _optional(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _clock(snapshot: Snapshot | None) -> str:
    if snapshot is None or snapshot.sm_clock_mhz is None:
        return "clock unread"
    return f"{snapshot.sm_clock_mhz} MHz"


def _temperature(snapshot: Snapshot | None) -> str:
    if snapshot is None or snapshot.temperature_c is None:
        return "temperature unread"
    return f"{snapshot.temperature_c} C"
