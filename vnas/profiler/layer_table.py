"""Time by module: what came out, and its rows for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vnas.errors import UsageError

COLUMNS = ("module", "type", "runs", "ms", "share", "parameters")
GPU_COLUMNS = (*COLUMNS, "kernels")


@dataclass(frozen=True)
class LayerRow:
    """One module.

    Attributes:
        path: as ``named_modules`` has it, the first where a module has several; empty for the one that is called.
        type: name of its class.
        calls: how often it ran in a call of the whole, on average; 0 for one that only holds others.
        exclusive_ms: its time in a call of the whole, all its runs together, without the modules that it calls.
        share: of ``total_ms``.
        parameters: its own, without those of the modules in it; one that several share is the first one's.
        kernels: launched by it in a call of the whole; None on the CPU, or where they could not be counted.
    """

    path: str
    type: str
    calls: float
    exclusive_ms: float
    share: float
    parameters: int
    kernels: int | None


@dataclass(frozen=True)
class LayerBreakdown:
    """Time by module.

    Attributes:
        rows: one for each module, as ``named_modules`` lists them. Their times sum to ``total_ms``.
        total_ms: a call with probes around its modules; on the CPU, without the time in the probes.
        plain_ms: median of the calls without probes, taken in turns with them.
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
    plain_ms: float
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


def breakdown_rows(
    breakdown: LayerBreakdown, limit: int | None = None, depth: int | None = None
) -> list[tuple[str, ...]]:
    """Rows of a table, the slowest first, in the order of ``breakdown_columns``; the last one is the whole.

    Modules that neither ran nor hold parameters are left out.

    Args:
        breakdown: what was timed.
        limit: rows at most; what is smaller is summed as ``(other)``. None is all.
        depth: components of a path that are shown; what lies deeper is summed under them. None is all.

    Raises:
        UsageError: a number that is not allowed.
    """
    if (limit is not None and limit < 1) or (depth is not None and depth < 0):
        raise UsageError(f"limit = {limit} must be at least 1, depth = {depth} at least 0")
    rows = _grouped(breakdown.rows, depth)
    rows = sorted((row for row in rows if row.calls or row.parameters), key=lambda row: -row.exclusive_ms)
    shown = rows if limit is None else rows[:limit]
    rest = rows[len(shown) :]
    if rest:
        shown = [*shown, _sum(rest, f"(other, {len(rest)})", "", None)]
    shown = [*shown, _sum(breakdown.rows, "(all)", "", None)]
    width = len(breakdown_columns(breakdown))
    return [_cells(row)[:width] for row in shown]


def _grouped(rows: Sequence[LayerRow], depth: int | None) -> list[LayerRow]:
    if depth is None:
        return list(rows)
    members: dict[str, list[LayerRow]] = {}
    for row in rows:
        members.setdefault(".".join(row.path.split(".")[:depth]), []).append(row)
    heads = {row.path: row for row in rows}
    return [_sum(group, path, heads[path].type, heads[path].calls) for path, group in members.items()]


def _sum(rows: Sequence[LayerRow], path: str, kind: str, calls: float | None) -> LayerRow:
    counted = [row.kernels for row in rows if row.kernels is not None]
    return LayerRow(
        path=path,
        type=kind,
        calls=sum(row.calls for row in rows) if calls is None else calls,
        exclusive_ms=math.fsum(row.exclusive_ms for row in rows),
        share=math.fsum(row.share for row in rows),
        parameters=sum(row.parameters for row in rows),
        kernels=sum(counted) if counted else None,
    )


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        row.path or "(top level)",
        row.type,
        f"{row.calls:g}",
        f"{row.exclusive_ms:.4f}",
        f"{row.share:.1%}",
        str(row.parameters),
        "-" if row.kernels is None else str(row.kernels),
    )
