"""What a study knows of each candidate, put together from its trials; of this driver's and of all others'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from vnas.search.engine.ledger import was_left
from vnas.search.engine.protocol import Attributes, Draw
from vnas.search.sampling.encoding import Floats

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
        queued: whether that trial waits in the queue.
        failed_above: whether it failed on the way to a rung, so that it is not sent there again.
        lost: times that a worker died on the way to a rung above the first.
        judged_by: the trial that found the last of its rungs.
        listed: rungs that the book has it among the judged of.
        settled: whether the book counts it.
        gate: that the book counts it under.
    """

    number: int
    draw: Draw
    attributes: Attributes
    rungs: list[Mapping[str, Any]] = field(default_factory=list)
    status: Status = "running"
    running: int | None = None
    queued: bool = False
    preset: bool = False
    failed_above: bool = False
    lost: int = 0
    judged_by: int | None = None
    listed: int = 0
    settled: bool = False
    gate: str | None = None

    @property
    def latency_ms(self) -> float | None:
        """Measured; None before."""
        return self.attributes.get("latency_ms")


class Book:
    """Candidates by digest, in the order of their first trial.

    Attributes:
        entries: by digest.
        working: those that somebody works on, by number.
        finished: trials that ended and were not left.
        repeated: repetitions in a row.
        failed_unnamed: trials that failed before it was known what their draw names.
        rejections: candidates that a gate turned away, in a row.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.finished = 0
        self.repeated = 0
        self.failed_unnamed = 0
        self.rejections = 0
        self.working: dict[int, Entry] = {}
        self._seen: dict[int, TrialState] = {}
        self._judged: list[list[Entry]] = []
        self._objectives: tuple[Floats, Floats] = (np.empty(0), np.empty(0))
        self._first = self._above = 0.0
        self._settled = 0
        self._saved: Counter[str] = Counter()

    def learn(self, trial: FrozenTrial, *, past: bool = False) -> Entry | None:
        """Take in a trial; the entry that it changed, or None where it says nothing new.

        Args:
            trial: of the study.
            past: whether an earlier run ended it. A failure that nobody expected does not count then: the machine may
                have been mended.
        """
        if self._seen.get(trial.number) == trial.state:
            return None
        self._seen[trial.number] = trial.state
        digest = trial.user_attrs.get("candidate")
        forgiven = past and "unexpected" in trial.user_attrs
        if was_left(trial) or (forgiven and not trial.user_attrs.get("rungs")):
            self._release(trial, digest)
            return None
        if trial.state.is_finished() and not forgiven:
            self._count(trial)
        if digest is None:
            return None
        if "duplicate_of" in trial.user_attrs:
            self._repetition(trial, digest)
            return None
        entry = self.entries.setdefault(digest, Entry(trial.number, trial.params, dict(trial.user_attrs)))
        self._update(entry, trial, forgiven)
        self.note(entry)
        return entry

    def _count(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        self.finished += 1
        if "duplicate_of" in attributes:
            self.repeated += 1
            return
        self.repeated = self.repeated + 1 if "repeats" in attributes else 0
        self.rejections = self.rejections + 1 if "gate" in attributes else 0
        self.failed_unnamed += "candidate" not in attributes and trial.state == TrialState.FAIL

    def _repetition(self, trial: FrozenTrial, digest: str) -> None:
        """A trial that seemed to be at work on a candidate has taken over what was known of it."""
        entry = self.entries.get(digest)
        if entry is None or entry.running != trial.number:
            return
        entry.running, entry.queued = None, False
        entry.attributes |= {key: value for key, value in trial.user_attrs.items() if key != "duplicate_of"}
        entry.status = _settled(entry, trial.user_attrs)
        self.note(entry)

    def _release(self, trial: FrozenTrial, digest: str | None) -> None:
        """A trial was left: another has its place, or will; what it had found is that one's to say."""
        entry, withdrawn = self.entries.get(digest or ""), "withdrawn" in trial.user_attrs
        if entry is None:
            return
        reason = trial.user_attrs.get("reason", "interrupted")
        entry.lost += bool(trial.user_attrs.get("rungs")) and reason != "interrupted" and not withdrawn
        if entry.running == trial.number:
            entry.running, entry.queued = None, False
            entry.status = "judged"
            if entry.rungs or digest is None:
                self.note(entry)
            else:
                self._forget(digest, entry)

    def _update(self, entry: Entry, trial: FrozenTrial, forgiven: bool) -> None:
        attributes = trial.user_attrs
        entry.preset |= bool(attributes.get("preset"))
        rungs = list(attributes.get("rungs", ()))
        answered = bool(entry.rungs) or entry.status == "failed"
        if len(rungs) > len(entry.rungs):
            entry.judged_by = trial.number
        if len(rungs) >= len(entry.rungs):
            entry.rungs, entry.attributes = rungs, dict(attributes)
        if not trial.state.is_finished():
            if answered and "continues" not in attributes:
                return  # a repetition to be
            if entry.running is None or trial.number <= entry.running:
                entry.running, entry.status = trial.number, "running"
                entry.queued = trial.state == TrialState.WAITING
            return
        if entry.running == trial.number:
            entry.running, entry.queued = None, False
        if trial.state == TrialState.FAIL and not forgiven:
            entry.failed_above = bool(entry.rungs)
        if entry.running is None:
            entry.status = _settled(entry, attributes)

    def note(self, entry: Entry) -> None:
        """Take over what has changed in an entry; every total is kept up to date so, and none walks the candidates."""
        if entry.running is None:
            self.working.pop(entry.number, None)
        else:
            self.working[entry.number] = entry
        for rung in range(entry.listed, len(entry.rungs)):
            while len(self._judged) <= rung:
                self._judged.append([])
            self._judged[rung].append(entry)
            spent = entry.rungs[rung]["epochs_spent"]
            self._first, self._above = self._first + spent * (rung == 0), self._above + spent * (rung > 0)
        entry.listed = len(entry.rungs)
        gate = str(entry.attributes["gate"]) if entry.status == "rejected" else None
        settled = bool(entry.rungs) or entry.status == "failed"
        self._settled += settled - entry.settled
        self._saved.subtract([entry.gate] if entry.gate else [])
        self._saved.update([gate] if gate else [])
        entry.settled, entry.gate = settled, gate

    def _forget(self, digest: str, entry: Entry) -> None:
        entry.running, entry.status = None, "running"
        self.note(entry)
        del self.entries[digest]

    @property
    def counted(self) -> int:
        """Candidates that were trained, or failed."""
        return self.failed_unnamed + self._settled

    def judged(self, rung: int = 0) -> Sequence[Entry]:
        """Candidates that were judged at a rung, whatever they do now, in that order."""
        return self._judged[rung] if rung < len(self._judged) else ()

    def objectives(self) -> tuple[Floats, Floats]:
        """Latency in ms and accuracy in percent of those judged at the first rung, (N,) each."""
        fresh = self.judged(0)[len(self._objectives[0]) :]
        if fresh:
            latency = [entry.attributes["latency_ms"] for entry in fresh]
            accuracy = [entry.rungs[0]["val_top1"] for entry in fresh]
            self._objectives = (np.append(self._objectives[0], latency), np.append(self._objectives[1], accuracy))
        return self._objectives

    def epochs(self) -> tuple[float, float]:
        """Epochs spent at the first rung, and above it."""
        return self._first, self._above

    def saved(self) -> dict[str, int]:
        """Candidates that each gate turned away."""
        return {name: count for name, count in self._saved.items() if count}


def _settled(entry: Entry, attributes: Mapping[str, Any]) -> Status:
    """Of a candidate that nobody works on, after a trial with these attributes."""
    return "judged" if entry.rungs else "rejected" if "gate" in attributes else "failed"
