"""What a study knows of each candidate, put together from its trials; of this driver's and of all others'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from vnas.search.engine.ledger import INTERRUPTED
from vnas.search.engine.protocol import Attributes, Draw
from vnas.search.policy.ranking import Floats

Status = Literal["running", "judged", "rejected", "failed"]


@dataclass
class Entry:
    """A candidate.

    Attributes:
        number: of its first trial.
        draw: that named it first.
        attributes: of the last trial that said something new, as the storage holds them.
        rungs: what was found at each rung so far.
        status: ``judged``: at one rung at least; ``rejected`` by a gate; ``failed``.
        running: the trial that is at work on it, here or elsewhere.
        preset: whether it goes on at every rung, whatever its rank.
        failed_above: a rung that it failed on the way to, so that it is not sent there again.
    """

    number: int
    draw: Draw
    attributes: Attributes
    rungs: list[Mapping[str, Any]] = field(default_factory=list)
    status: Status = "running"
    running: int | None = None
    preset: bool = False
    failed_above: bool = False

    @property
    def latency_ms(self) -> float | None:
        """Measured; None before."""
        return self.attributes.get("latency_ms")


class Book:
    """Candidates by digest, in the order of their first trial."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.finished = 0
        self.repeated = 0
        self.failed_unnamed = 0
        self.rejections = 0
        self._seen: dict[int, TrialState] = {}

    def learn(self, trial: FrozenTrial) -> Entry | None:
        """Take in a trial; the entry that it changed, or None where it says nothing new."""
        if self._seen.get(trial.number) == trial.state:
            return None
        self._seen[trial.number] = trial.state
        if trial.state == TrialState.WAITING:
            return None
        attributes = trial.user_attrs
        left = bool(attributes.get(INTERRUPTED)) or (trial.state == TrialState.FAIL and "reason" not in attributes)
        if trial.state.is_finished() and not left:
            self.finished += 1
            if "duplicate_of" in attributes:
                self.repeated += 1
                return None
            self.repeated = 0
            self.rejections = self.rejections + 1 if "gate" in attributes else 0
        digest = attributes.get("candidate")
        if digest is None:
            self.failed_unnamed += trial.state == TrialState.FAIL and not left
            return None
        if digest not in self.entries:
            if left and not attributes.get("rungs"):
                return None
            self.entries[digest] = Entry(trial.number, trial.params, dict(attributes))
        entry = self.entries[digest]
        entry.preset |= bool(attributes.get("preset"))
        rungs = list(attributes.get("rungs", ()))
        if len(rungs) >= len(entry.rungs):
            entry.rungs = rungs
            entry.attributes = dict(attributes)
        if trial.state == TrialState.RUNNING:
            entry.running = trial.number
            return entry
        if entry.running == trial.number:
            entry.running = None
        if left:
            if not entry.rungs and entry.running is None:
                del self.entries[digest]
                return None
        elif trial.state == TrialState.FAIL:
            entry.failed_above = bool(entry.rungs)
        if entry.running is None:
            entry.status = "judged" if entry.rungs else "rejected" if "gate" in attributes else "failed"
        return entry

    @property
    def counted(self) -> int:
        """Candidates that were trained, or failed."""
        return self.failed_unnamed + sum(entry.status in ("judged", "failed") for entry in self.entries.values())

    def judged(self, rung: int = 0) -> Iterator[Entry]:
        """Candidates that were judged at a rung, whatever they do now."""
        return (entry for entry in self.entries.values() if len(entry.rungs) > rung)

    def objectives(self, rung: int = 0) -> tuple[Floats, Floats]:
        """Latency in ms and accuracy in percent of those judged at a rung, (N,) each."""
        judged = list(self.judged(rung))
        return (
            np.array([entry.latency_ms for entry in judged], dtype=np.float64),
            np.array([entry.rungs[rung]["val_top1"] for entry in judged], dtype=np.float64),
        )

    def epochs(self) -> tuple[float, float]:
        """Epochs spent at the first rung, and above it."""
        first = above = 0.0
        for entry in self.entries.values():
            for rung, result in enumerate(entry.rungs):
                if rung == 0:
                    first += result["epochs_spent"]
                else:
                    above += result["epochs_spent"]
        return first, above

    def saved(self) -> dict[str, int]:
        """Candidates that each gate turned away."""
        counts: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.status == "rejected":
                name = str(entry.attributes["gate"])
                counts[name] = counts.get(name, 0) + 1
        return counts
