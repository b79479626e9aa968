"""A table as what the engine searches, and as the worker that knows every answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vnas.search.engine.protocol import Attributes, Draw, Subject
from vnas.search.tabular.table import Table, describe


class TableProblem:
    """Which row to look up.

    Args:
        table: the answers.
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def choices(self) -> Mapping[str, Sequence[Any]]:
        """The distinct values of each column of choices."""
        return self.table.choices

    @property
    def size(self) -> int:
        """Rows; fewer than the combinations of the choices where the table is partial."""
        return len(self.table)

    @property
    def rungs(self) -> Sequence[float]:
        """Epochs in all at each rung."""
        return self.table.rungs

    def subject(self, draw: Draw) -> Subject:
        """The row of a draw: ``row`` among the attributes counts from 0.

        Raises:
            ConfigError: the table has no such row.
        """
        row = self.table.row(draw)
        named = self.table.draw(row)
        digest = digest_of(named)
        costs = {name: float(values[row]) for name, values in self.table.costs.items()}
        names = {"digest": digest, "candidate": digest, "description": describe(named), "row": row}
        return Subject(digest, digest, {**names, **costs}, costs)

    def absent(self, draw: Draw) -> Collection[str]:
        """None: every column has its meaning in every row."""
        return ()

    def latency_key(self, attributes: Mapping[str, Any]) -> str | None:
        """The digest: every row has a latency of its own."""
        return attributes.get("digest")

    @property
    def latency_attributes(self) -> Collection[str]:
        """What :meth:`TableEvaluator.measure` gives."""
        return ("latency_ms", "latency_low_ms", "latency_high_ms")


class TableEvaluator:
    """Looks answers up.

    Args:
        table: the answers.
        seed: with the candidate decides which of several trainings is looked up.
    """

    def __init__(self, table: Table, seed: int) -> None:
        self.table = table
        self.seed = seed
        self._last_rung: dict[str, int] = {}

    def measure(self, subject: Subject) -> Attributes:
        """The row's latency in ms; the interval has no width."""
        latency_ms = float(self.table.latency_ms[subject.attributes["row"]])
        return {"latency_ms": latency_ms, "latency_low_ms": latency_ms, "latency_high_ms": latency_ms}

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> Attributes:
        """``val_top1`` of one training in percent, ``epochs``, ``epochs_spent`` and the ``seconds`` that these take.

        A candidate goes on from the rung below where that is what this evaluator last trained it to; else it starts
        anew, and all epochs are spent.
        """
        row = subject.attributes["row"]
        epochs = self.table.rungs[rung]
        goes_on = rung > 0 and self._last_rung.get(subject.digest) == rung - 1
        epochs_spent = epochs - self.table.rungs[rung - 1] if goes_on else epochs
        self._last_rung[subject.digest] = rung
        accuracies = self.table.accuracy[rung][row]  # (K,)
        known = accuracies[~np.isnan(accuracies)]
        progress(1.0)
        return {
            "val_top1": float(known[_training_of(self.seed, subject.digest) % len(known)]),
            "epochs": epochs,
            "epochs_spent": epochs_spent,
            "seconds": epochs_spent * float(self.table.seconds[row]) / self.table.rungs[-1],
        }


def digest_of(draw: Draw) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a draw's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(dict(draw), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _training_of(seed: int, digest: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{digest}".encode()).digest()[:4], "big")
