"""Time by module: what came out, and its rows for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vnas.errors import UsageError

COLUMNS = ("module", "type", "runs", "ms", "quartiles ms", "share", "parameters")
GPU_COLUMNS = (*COLUMNS, "kernels")


@dataclass(frozen=True)
class LayerRow:
    """One module.

    Attributes:
        path: as ``named_modules`` has it, the first where a module has several; empty for the one that is called.
        type: name of its class.
        calls: how often it ran in a call of the whole, on average; 0 for one that only holds others.
        exclusive_ms: its time in a call of the whole, all its runs together, without the modules that it calls: a
            mean over the middle half of the calls.
        quartiles_ms: of that time, over all calls: in half of them it lay between (low, high).
        share: of ``total_ms``.
        parameters: its own, without those of the modules in it; one that several share is the first one's.
        kernels: launched by it in a call of the whole; None on the CPU, or where they could not be counted.
    """

    path: str
    type: str
    calls: float
    exclusive_ms: float
    quartiles_ms: tuple[float, float]
    share: float
    parameters: int
    kernels: int | None


@dataclass(frozen=True)
class LayerBreakdown:
    """Time by module.

    Attributes:
        rows: one for each module, as ``named_modules`` lists them. Their times sum to ``total_ms``.
        total_ms: a call with probes around its modules; on the CPU, without the time in the probes.
        total_quartiles_ms: of the calls with probes, all of them (low, high).
        plain_ms: median of the calls without probes, taken in turns with them.
        plain_interval_ms: its order-statistic interval (low, high), of 95 % from six calls on.
        overhead_ms: what the probes still add to ``total_ms``, as measured on modules that do nothing; None on a GPU.
        difference: ``(total_ms - overhead_ms) / plain_ms - 1``.
        tolerance: the difference from which a note warns.
        calls: probed calls that were timed; the rows are of the middle half of them.
        device: as torch names it.
        timer: what the times are.
        notes: warnings that travel with the result.
    """

    rows: tuple[LayerRow, ...]
    total_ms: float
    total_quartiles_ms: tuple[float, float]
    plain_ms: float
    plain_interval_ms: tuple[float, float]
    overhead_ms: float | None
    difference: float
    tolerance: float
    calls: int
    device: str
    timer: str
    notes: tuple[str, ...]


def breakdown_columns(breakdown: LayerBreakdown) -> tuple[str, ...]:
    """Headings of ``breakdown_rows``: kernels only where they were counted."""
    counted = any(row.kernels is not None for row in breakdown.rows)
    return GPU_COLUMNS if counted else COLUMNS


def breakdown_rows(breakdown: LayerBreakdown, limit: int | None = None) -> list[tuple[str, ...]]:
    """Rows of a table, the slowest first, in the order of ``breakdown_columns``; the last one is the whole.

    Modules that neither ran nor hold parameters are left out.

    Args:
        breakdown: what was timed.
        limit: rows at most; what is smaller is summed as ``(other)``. None is all.

    Raises:
        UsageError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} must be at least 1")
    rows = sorted((row for row in breakdown.rows if row.calls or row.parameters), key=lambda row: -row.exclusive_ms)
    shown = rows if limit is None else rows[:limit]
    rest = rows[len(shown) :]
    cells = [_cells(row.path or "(top level)", row.type, [row], row.quartiles_ms) for row in shown]
    if rest:
        cells.append(_cells(f"(other, {len(rest)})", "", rest, None))
    cells.append(_cells("(all)", "", breakdown.rows, breakdown.total_quartiles_ms))
    width = len(breakdown_columns(breakdown))
    return [row[:width] for row in cells]


def check_line(breakdown: LayerBreakdown) -> str:
    """The sum of the modules beside the call without probes: whether the table can be believed."""
    b = breakdown
    low, high = b.plain_interval_ms
    probes = "" if b.overhead_ms is None else f", of which the probes add {b.overhead_ms:.4f}"
    return (
        f"sum of the modules {b.total_ms:.4f} ms{probes}; without probes {b.plain_ms:.4f} ms [{low:.4f} - {high:.4f}]; "
        f"difference {b.difference:+.1%}, tolerance {b.tolerance:.0%}"
    )


def _cells(name: str, kind: str, rows: Sequence[LayerRow], quartiles_ms: tuple[float, float] | None) -> tuple[str, ...]:
    """One line of the table, of one module or of several together."""
    counted = [row.kernels for row in rows if row.kernels is not None]
    return (
        name,
        kind,
        f"{sum(row.calls for row in rows):g}",
        f"{math.fsum(row.exclusive_ms for row in rows):.4f}",
        "-" if quartiles_ms is None else "{:.4f} - {:.4f}".format(*quartiles_ms),
        f"{math.fsum(row.share for row in rows):.1%}",
        str(sum(row.parameters for row in rows)),
        str(sum(counted)) if counted else "-",
    )
