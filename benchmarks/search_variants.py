"""Tables made of a table, to see whether a method holds where it was not developed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vnas.search.tabular.table import Table

NOISE_POINTS = 3.0
NOISE_SEED = 0
NARROWER = 0.7
"""Of the reference latency."""


def fewer_choices(table: Table) -> Table:
    """Without the last choice of each name that has more than two."""
    kept = {name: options[:-1] if len(options) > 2 else options for name, options in table.choices.items()}
    rows = [row for row in range(len(table)) if all(value in kept[name] for name, value in table.draw(row).items())]
    return changed(table, np.array(rows, dtype=np.intp))


def noisier(table: Table) -> Table:
    """Gaussian noise on the accuracies of every rung but the last."""
    random = np.random.default_rng(NOISE_SEED)
    early = [np.clip(values + random.normal(0.0, NOISE_POINTS, values.shape), 0.0, 100.0) for values in table.accuracy]
    return changed(table, accuracy=(*early[:-1], table.accuracy[-1]))


def seconds_for_latency(table: Table) -> Table:
    """Seconds of training in the place of latencies, scaled so that as many nets are under the reference."""
    under = float(np.mean(table.latency_ms < table.reference[1]))
    scale = np.quantile(table.latency_ms, under) / np.quantile(table.seconds, under)
    return changed(table, latency_ms=table.seconds * scale)


def nearer_reference(table: Table) -> Table:
    """A lower reference latency."""
    error, latency_ms = table.reference
    return changed(table, reference=(error, NARROWER * latency_ms))


VARIANTS: dict[str, Callable[[Table], Table]] = {
    "as it is": lambda table: table,
    "without the last choice of each name": fewer_choices,
    f"first rung {NOISE_POINTS:g} points noisier": noisier,
    "training seconds for latency": seconds_for_latency,
    f"reference latency times {NARROWER:g}": nearer_reference,
}
"""By what the table of results calls them."""


def changed(table: Table, rows: npt.NDArray[np.intp] | None = None, **changes: Any) -> Table:
    """A table of some rows, or with other answers.

    Args:
        table: left as it is.
        rows: that are kept; all without it.
        changes: attributes in place of the table's own, for the rows that are kept.
    """
    rows = np.arange(len(table)) if rows is None else rows
    draws = [table.draw(int(row)) for row in rows]
    found = {name: tuple(sorted({draw[name] for draw in draws})) for name in table.choices}
    varied = {name: options for name, options in found.items() if len(options) > 1}
    attributes: dict[str, Any] = {
        "choices": varied,
        "index": {tuple(draw[name] for name in varied): place for place, draw in enumerate(draws)},
        "rungs": table.rungs,
        "accuracy": tuple(values[rows] for values in table.accuracy),
        "latency_ms": table.latency_ms[rows],
        "seconds": table.seconds[rows],
        "costs": {name: values[rows] for name, values in table.costs.items()},
        "reference": table.reference,
    }
    return Table(**(attributes | changes))
