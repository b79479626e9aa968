"""A measurement in one line, and in a row of a table: only the digits that the interval leaves significant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vnas.profiler.energy import Energy
from vnas.profiler.measurement import Measurement
from vnas.profiler.results import put_aside_share
from vnas.profiler.telemetry import Snapshot

INTERVAL = "95 % interval"

WORDS = frozenset({"net", "form", "runtime", "precision", "module", "type"})
"""Columns of words."""


def decimals(width: float) -> int:
    """Decimals that show two significant digits of an interval's width, from 0 to 4."""
    if width <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(width)), 0), 4)


def milliseconds(result: Measurement) -> tuple[str, str]:
    """Median and interval, e.g. ``("12.31", "12.28 - 12.36")``."""
    low, high = result.interval_ms
    digits = _digits(result)
    return _fixed(result.median_ms, digits), f"{_fixed(low, digits)} - {_fixed(high, digits)}"


def measurement_line(name: str, form: str, result: Measurement) -> str:
    """Net, form, runtime, precision, layout, batch, median, interval, n, device, clock, temperature, noise target.

    Then the numerical error and the energy, where there are any, and what is wrong.
    """
    median, interval = milliseconds(result)
    level = _below_95(result.interval_level)
    environment = result.environment
    where = environment.device_kind
    if environment.device_type == "cpu":
        where += f", {_counted(environment.threads, 'thread')}"
    last = result.telemetry[-1] if result.telemetry else None
    parts = [
        f"{name} {form}",
        f"{result.runtime} {result.precision or 'precision unknown'} {result.layout or ''}".strip(),
        f"batch {result.batch if result.batch is not None else 'unknown'}",
        f"{median} ms [{interval}]" if level is None else f"{median} ms [{interval}, {level}]",
        f"n={result.n} in {_counted(result.processes, 'process', 'es')}",
        where,
        _clock(last),
        _temperature(last),
        f"noise target {'met' if result.noise_ok else 'missed'}",
    ]
    if result.error is not None:
        parts.append(f"error {result.error.max_relative:.1e}")
    if result.energy is not None:
        parts.append(f"energy {_energy(result.energy)} mJ (gross / net)")
    if result.throttled:
        parts.append("THROTTLED")
    if result.contention == "yes":
        parts.append("CONTENTION")
    if result.launch_bound:
        parts.append("launch-bound")
    if not result.valid:
        parts.append(f"INVALID: {invalid_reason(result)}")
    return "  ".join(parts)


def invalid_reason(result: Measurement) -> str:
    """Why a measurement is not valid: its note that says so, without the word."""
    said = [note.removeprefix("INVALID:").strip() for note in result.notes if note.startswith("INVALID:")]
    return "; ".join(said) or "too many samples were put aside"


def columns(results: Sequence[Measurement]) -> tuple[str, ...]:
    """Names of the columns that a table of these results needs; one that would say nothing is left out.

    That of the intervals names the lowest level among them where it is not 95 %.
    """
    left_out = set()
    if all(result.runtime == "eager" for result in results):
        left_out.add("runtime")
    if all(result.error is None for result in results):
        left_out.add("error")
    if all(result.energy is None for result in results):
        left_out.add("energy mJ gross / net")
    if not any(result.discarded_ms for result in results):
        left_out.add("put aside")
    if all(result.environment.device_type == "cpu" for result in results):
        left_out |= {"host ms", "graph ms", "launch-bound"}
    level = _below_95(min((result.interval_level for result in results), default=0.95))
    interval = INTERVAL if level is None else f"interval, {level} or more"
    names = (interval if name == INTERVAL else name for name in ("net", "form", *_VALUES))
    return tuple(name for name in names if name not in left_out)


def measurement_row(name: str, form: str, result: Measurement, names: Sequence[str]) -> tuple[str, ...]:
    """One row with the columns asked for; ``-`` where there is nothing."""
    known = {"net": name, "form": form}
    values = [known[column] if column in known else _VALUES.get(column, _interval)(result) for column in names]
    return tuple(values)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines, as wide as it must be: nothing is cut. Words are aligned to the left, numbers to the right.

    Args:
        header: names of the columns.
        rows: as long as the header.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in WORDS else cell.rjust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _interval(result: Measurement) -> str:
    return milliseconds(result)[1]


def _below_95(level: float) -> str | None:
    """A level as ``87 %``, rounded down; None from 95 % on."""
    return None if level >= 0.95 else f"{math.floor(100.0 * level)} %"


def _digits(result: Measurement) -> int:
    """Those of the interval, but never so few that nothing is left of the median."""
    low, high = result.interval_ms
    return max(decimals(high - low), decimals(result.median_ms))


def _noise(result: Measurement) -> str:
    if not result.valid:
        return "INVALID"
    return "met" if result.noise_ok else "missed"


def _energy(energy: Energy) -> str:
    low, high = energy.gross_interval_mj
    digits = decimals(high - low)
    return f"{energy.gross_mj:.{digits}f} / {_optional(energy.net_mj, digits)}"


def _put_aside(result: Measurement) -> str:
    return f"{put_aside_share(result):.0%}" if result.discarded_ms else "-"


def _side(result: Measurement, value: float | None) -> str:
    return _optional(value, _digits(result))


_VALUES: dict[str, Callable[[Measurement], str]] = {
    "runtime": lambda result: result.runtime,
    "precision": lambda result: result.precision or "-",
    "batch": lambda result: "-" if result.batch is None else str(result.batch),
    "median ms": lambda result: milliseconds(result)[0],
    INTERVAL: _interval,
    "n": lambda result: str(result.n),
    "processes": lambda result: str(result.processes),
    "noise": _noise,
    "error": lambda result: "-" if result.error is None else f"{result.error.max_relative:.1e}",
    "energy mJ gross / net": lambda result: "-" if result.energy is None else _energy(result.energy),
    "put aside": _put_aside,
    "host ms": lambda result: _side(result, result.host_ms),
    "graph ms": lambda result: _side(result, result.graph_ms),
    "launch-bound": lambda result: {True: "yes", False: "no", None: "-"}[result.launch_bound],
}


def _fixed(value: float, digits: int) -> str:
    """Two processes far apart have an interval that no column is wide enough for."""
    return f"{value:.{digits}f}" if value < 1e7 else f"{value:.1e}"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"


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
