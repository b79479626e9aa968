"""The loop of a study: ask, evaluate, tell, until the trials or the time are used up."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from optuna.trial import FrozenTrial, TrialState

from vnas.errors import UsageError, VnasError
from vnas.evaluate import Candidate, evaluate
from vnas.search.interrupts import protected
from vnas.search.space import random_draw, size, suggest

if TYPE_CHECKING:
    import optuna
    import torch

    from vnas.search.store import StudyStore
    from vnas.training import Data, Progress

# A sampler that has only repeated known candidates this often in a row is stuck: draws are random until one is new.
STUCK_AFTER = 5
# As many repetitions in a row mean that there is hardly anything new to be had.
EXHAUSTED_AFTER = 100
# As many failures in a row that vnas did not raise itself mean that something is wrong with the machine or with us.
BROKEN_AFTER = 3


@dataclass(frozen=True, slots=True)
class TrialLine:
    """A finished trial, as it is announced.

    Attributes:
        number: of the trial.
        state: ``complete``, ``over budget``, ``failed`` or ``duplicate``.
        description: the net in one line; empty where the trial failed before it had one.
        depth: as the paper counts it.
        latency_ms: median and the ends of its interval.
        val_top1: of the fused net, in percent.
        seconds: wall time.
        note: why it failed or was rejected, or which trial it repeats.
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
        """The loop begins; ``done`` trials of ``total`` are there already."""

    def trial_started(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be evaluated."""

    def training(self, progress: Progress) -> None:
        """A training run went on."""

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """A trial has been stored."""

    def note(self, text: str) -> None:
        """Something worth a line."""


def search(store: StudyStore, data: Data, device: torch.device, reporter: Reporter) -> None:
    """Evaluate candidates until the study has as many as it asks for, or its time is up.

    Raises:
        VnasError: several trials in a row failed for a reason that is not the candidate's.
        KeyboardInterrupt: passed on, after the trial at work was taken back.
    """
    config = store.config
    limit = config.time_limit_minutes
    deadline = None if limit is None else time.monotonic() + 60.0 * limit
    reporter.search_started(store.counted, config.trials)
    # A resumed run asks a few times more before it finds the space exhausted again.
    repeated = min(store.repeated, EXHAUSTED_AFTER - STUCK_AFTER)
    broken = 0
    while store.counted < config.trials:
        if deadline is not None and time.monotonic() >= deadline:
            reporter.note(f"the time limit of {limit:g} min is reached after {store.counted} candidates")
            return
        if repeated >= EXHAUSTED_AFTER or len(store.known) >= size(config.space):
            reporter.note(f"the space seems exhausted after {store.counted} candidates: draws only repeat them")
            return
        began = time.perf_counter()
        trial: optuna.Trial | None = None
        try:
            with protected():
                draw = random_draw(config.space, (config.seed, store.asked)) if repeated >= STUCK_AFTER else None
                trial = store.ask(draw)
            candidate = suggest(
                trial,
                config.space,
                in_chans=data.in_chans,
                num_classes=data.num_classes,
                anneal=config.training.anneal,
            )
            if candidate.digest in store.known:
                repeated += 1
                frozen = store.repeat(trial, candidate)
            else:
                repeated = 0
                reporter.trial_started(trial.number, candidate)
                frozen = _evaluate(store, trial, candidate, data, device, reporter)
            broken = 0
        except (KeyboardInterrupt, UsageError):
            if trial is not None:
                store.interrupt(trial)
            raise
        except VnasError as error:
            if trial is None:
                raise
            broken = 0
            frozen = store.fail(trial, str(error))
        except Exception as error:
            if trial is None:
                raise
            broken += 1
            frozen = store.fail(trial, f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
            if broken >= BROKEN_AFTER:
                raise VnasError(
                    f"{broken} trials in a row failed with an unexpected error, the last with "
                    f"{type(error).__name__}: {error}. Completed trials are kept; --resume goes on"
                ) from error
        reporter.trial_finished(line_of(frozen, time.perf_counter() - began), store.counted, config.trials)


def _evaluate(
    store: StudyStore,
    trial: optuna.Trial,
    candidate: Candidate,
    data: Data,
    device: torch.device,
    reporter: Reporter,
) -> FrozenTrial:
    config = store.config
    evaluation = evaluate(
        candidate,
        data,
        config.training,
        config.latency,
        seed=candidate.seed(config.seed),
        device=device,
        known_latency=store.latency_of(candidate.architecture.digest),
        record=lambda attributes: store.record(trial, attributes),
        progress=reporter.training,
    )
    latency_ms = evaluation.latency.median_ms
    if evaluation.training is None:
        budget = config.latency.budget_ms
        return store.reject(trial, latency_ms, f"latency {latency_ms:.4g} ms is over the budget of {budget:g} ms")
    return store.complete(trial, evaluation.training.val_top1, latency_ms)


def line_of(trial: FrozenTrial, seconds: float) -> TrialLine:
    """The announcement of a finished trial, from what the storage holds of it."""
    attributes = trial.user_attrs
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "over budget", TrialState.FAIL: "failed"}[trial.state]
    note = str(attributes.get("reason", ""))
    if "duplicate_of" in attributes:
        state, note = "duplicate", f"of trial {attributes['duplicate_of']}"
    latency = None
    if "latency_ms" in attributes:
        latency = (attributes["latency_ms"], attributes["latency_low_ms"], attributes["latency_high_ms"])
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
