"""What became of each candidate, however many trials it had, and what was saved by asking before training. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from vnas.config import GatesConfig
from vnas.report.record import Record
from vnas.report.trial_frame import number

Status = Literal["complete", "stopped", "running", "rejected", "failed"]

GATES = tuple(GatesConfig.model_fields)
"""Names of the gates, the cheapest first."""


@dataclass(frozen=True)
class Candidate:
    """An architecture with its lambda schedule.

    Attributes:
        trials: numbers of its trials, repetitions left out.
        trial: the one that tells what became of it.
        status: ``complete``: judged at the last rung; ``stopped``: judged at a lower one; ``running``: not judged yet;
            ``rejected``: turned away by a gate before training; ``failed``: before it was judged.
        rung: the last that it was judged at, from 0; None before the first.
        higher: whether it was sent on from there, and is on its way or failed.
        gates: that turned it away, one entry a trial; it may have come again after that.
    """

    trials: tuple[int, ...]
    trial: int
    status: Status
    rung: int | None
    higher: bool
    gates: tuple[str, ...]


@dataclass(frozen=True)
class GateCount:
    """What a gate saved.

    Attributes:
        gate: its name.
        turned_away: candidates; for the duplicates, draws.
        saved: trainings: of those that were not trained later.
    """

    gate: str
    turned_away: int
    saved: int


@dataclass(frozen=True)
class RungCount:
    """What happened at a rung.

    Attributes:
        rung: from 0.
        epochs: that a candidate cost there, from the rung below; the median, None before one was judged.
        judged: candidates.
        sent_on: candidates; None at the last rung.
    """

    rung: int
    epochs: float | None
    judged: int
    sent_on: int | None


def candidates(trials: pd.DataFrame) -> tuple[Candidate, ...]:
    """The candidates of a study, by their first trial; without those that only an interrupted trial is known of.

    Args:
        trials: of a :class:`Record`.
    """
    groups: dict[str, list[Any]] = {}
    there = trials[trials["duplicate_of"].isna() & (trials["state"] != "WAITING")]
    for row in there.itertuples(index=False):
        name = f"trial {row.number}" if row.candidate is pd.NA else str(row.candidate)
        groups.setdefault(name, []).append(row)
    return tuple(found for group in groups.values() if (found := _candidate(group)) is not None)


def _candidate(group: list[Any]) -> Candidate | None:
    running = any(row.state == "RUNNING" for row in group)
    settled = [row for row in group if row.state != "RUNNING" and not row.interrupted]
    rung = max((int(row.rung) for row in group if pd.notna(row.rung)), default=None)
    if not settled and not running and rung is None:
        return None
    last = settled[-1] if settled else group[-1]
    at_work = [row for row in group if row.state in ("RUNNING", "FAIL") and not row.interrupted]
    return Candidate(
        trials=tuple(int(row.number) for row in group),
        trial=int(last.number),
        status=_status(group, last, rung, running=running),
        rung=rung,
        higher=any(pd.notna(row.rung) and row.rung == rung for row in at_work),
        gates=tuple(str(row.gate) for row in settled if pd.notna(row.gate) and row.state == "PRUNED"),
    )


def _status(group: list[Any], last: Any, rung: int | None, *, running: bool) -> Status:
    if any(row.state == "COMPLETE" for row in group):
        return "complete"
    if rung is not None:
        return "stopped"
    if running:
        return "running"
    return "rejected" if last.state == "PRUNED" else "failed"


def trained(found: Iterable[Candidate]) -> list[Candidate]:
    """Those that were judged at one rung at least."""
    return [candidate for candidate in found if candidate.rung is not None]


def gate_counts(record: Record, found: Sequence[Candidate]) -> tuple[GateCount, ...]:
    """What each gate saved that the study asks or that turned something away, the cheapest first.

    Args:
        record: of the study.
        found: its candidates.
    """
    away = Counter(gate for candidate in found for gate in set(candidate.gates))
    last_word = Counter(c.gates[-1] for c in found if c.status == "rejected" and c.gates)
    repeated, repeated_trained = _repetitions(record.trials, found)
    away["duplicate"], last_word["duplicate"] = repeated, repeated_trained
    counts = (GateCount(gate, away[gate], last_word[gate]) for gate in GATES)
    return tuple(count for count in counts if count.turned_away or _asked(record, count.gate))


def _repetitions(trials: pd.DataFrame, found: Sequence[Candidate]) -> tuple[int, int]:
    """Trials that repeated a candidate; and those that would have been trained, as their candidate was not rejected."""
    rejected = {number for candidate in found if candidate.status == "rejected" for number in candidate.trials}
    repeated = trials["duplicate_of"].dropna()
    return len(repeated), int((~repeated.isin(list(rejected))).sum())


def _asked(record: Record, gate: str) -> bool:
    study = record.study
    if gate in ("predicted", "budget") and study.latency.budget_ms is None:
        return False
    if gate == "cost" and not any(study.constraints.model_dump().values()):
        return False
    return bool(getattr(study.gates, gate))


def rung_counts(record: Record, found: Sequence[Candidate]) -> tuple[RungCount, ...]:
    """What happened at each rung, the lowest first.

    Args:
        record: of the study.
        found: its candidates.
    """
    spent: dict[int, list[float]] = {}
    for entry in (entry for rungs in record.trials["rungs"] for entry in rungs):
        if (epochs := number(entry.get("epochs_spent"))) is not None:
            spent.setdefault(entry["rung"], []).append(epochs)
    reached = [(candidate.rung, candidate.higher) for candidate in found if candidate.rung is not None]
    last = len(record.study.rungs.shares) - 1
    return tuple(
        RungCount(
            rung=rung,
            epochs=float(np.median(spent[rung])) if rung in spent else None,
            judged=sum(at >= rung for at, _ in reached),
            sent_on=sum(at > rung or (at == rung and higher) for at, higher in reached) if rung < last else None,
        )
        for rung in range(last + 1)
    )
