"""Where a running study tells what it does, and the line that a finished trial is announced by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from optuna.trial import FrozenTrial, TrialState

from vnas.search.engine.ledger import was_left
from vnas.search.engine.protocol import Subject
from vnas.search.policy.gates import PROMISE


@dataclass(frozen=True, slots=True)
class TrialLine:
    """A finished trial, as it is announced.

    Attributes:
        number: of the trial.
        state: ``complete``, ``stopped``, ``rejected``, ``put off``, ``failed``, ``interrupted`` or ``duplicate``.
        description: the net in one line; empty where the trial failed before it had one.
        depth: as the paper counts it.
        latency_ms: median and the ends of its interval.
        val_top1: of the fused net, in percent.
        seconds: wall time.
        note: why it failed or was turned away, which trial it repeats or continues, at which rung it was stopped.
    """

    number: int
    state: str
    description: str
    depth: int | None
    latency_ms: tuple[float, float, float] | None
    val_top1: float | None
    seconds: float
    note: str


class Reporter(Protocol):
    """Where a running study tells what it does."""

    def search_started(self, done: int, total: int) -> None:
        """The loop begins; ``done`` candidates of ``total`` are there already."""

    def trial_started(self, number: int, subject: Subject) -> None:
        """A candidate is about to be measured."""

    def advanced(self, number: int, share: float) -> None:
        """A job of a trial went on."""

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """A trial has been stored."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """Tells nobody."""

    def search_started(self, done: int, total: int) -> None:
        """See :class:`Reporter`."""

    def trial_started(self, number: int, subject: Subject) -> None:
        """See :class:`Reporter`."""

    def advanced(self, number: int, share: float) -> None:
        """See :class:`Reporter`."""

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """See :class:`Reporter`."""

    def note(self, text: str) -> None:
        """See :class:`Reporter`."""


def line_of(trial: FrozenTrial, seconds: float) -> TrialLine:
    """The announcement of a finished trial, from what the storage holds of it."""
    attributes = trial.user_attrs
    state, note = _state(trial), str(attributes.get("reason", ""))
    if state == "duplicate":
        note = f"of trial {attributes['duplicate_of']}"
    elif state == "stopped":
        note = f"rung {attributes['stopped'] + 1}"
    elif state == "complete" and "continues" in attributes:
        note = f"continues trial {attributes['continues']}"
    latency = None
    if "latency_ms" in attributes:
        middle = attributes["latency_ms"]
        latency = (middle, attributes.get("latency_low_ms", middle), attributes.get("latency_high_ms", middle))
    return TrialLine(
        number=trial.number,
        state=state,
        description=attributes.get("description", ""),
        depth=attributes.get("depth"),
        latency_ms=latency,
        val_top1=attributes.get("val_top1"),
        seconds=seconds,
        note=note,
    )


def _state(trial: FrozenTrial) -> str:
    attributes = trial.user_attrs
    if "duplicate_of" in attributes:
        return "duplicate"
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if trial.state == TrialState.PRUNED:
        if "gate" not in attributes:
            return "stopped"
        return "put off" if attributes["gate"] == PROMISE else "rejected"
    return "interrupted" if was_left(trial) else "failed"
