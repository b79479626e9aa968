"""The trials of a study in Optuna's storage: the one source of truth, written before anything is announced.

    state      what it is
    WAITING    a draw in the queue; whoever makes it RUNNING works on it
    RUNNING    at work, by the driver that ``driver`` names
    COMPLETE   judged at the last rung: values are accuracy, latency[, energy]
    PRUNED     turned away by a gate (``gate``, ``reason``), or judged and stopped at a lower rung (``stopped``), from
               where a later trial may go on (``continues``)
    FAIL       went wrong (``reason``); or was left by a driver that ended, and another trial has its place

A repetition of a candidate has the state and values of the first, and its number in ``duplicate_of``.

A trial is put there as WAITING with its draw and a first heartbeat, then made RUNNING, which the database lets one
driver do. Of two trials that claim the same thing (a candidate, a place to take) the lower number has it, whichever
machine its driver runs on: numbers are given out one after the other, and each looks after it has its own.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from vnas.search.engine.protocol import Attributes, Draw
from vnas.search.interrupts import protected

DRIVER, RECOVERS, INTERRUPTED = "driver", "recovers", "interrupted"
MISSED_HEARTBEATS = 3
"""After so many, the trials of a driver are another's."""
_ITS_OWN = frozenset({DRIVER, INTERRUPTED, "reason", "traceback", "unexpected", "seconds", "finished_at", "gate"})
"""What a trial does not hand on to the one that takes its place."""


class TakenAwayError(Exception):
    """A trial that runs here was failed by another driver, which took this one for dead; another has its place.

    Attributes:
        number: of the trial.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"trial {number} is another driver's")
        self.number = number


def was_left(trial: FrozenTrial) -> bool:
    """Whether a failed trial went wrong because its run ended: it says so, or says nothing."""
    if trial.state != TrialState.FAIL:
        return False
    return bool(trial.user_attrs.get(INTERRUPTED)) or "reason" not in trial.user_attrs


class Ledger:
    """Reads and writes the trials of one study.

    Args:
        study: in its storage.
        choices: what each name may be.
        owner: name of this driver.

    Attributes:
        running: what was stored of the trials that run here, by number.
        look_for_queue: whether there may be draws in the queue.
    """

    def __init__(self, study: optuna.Study, choices: Mapping[str, Sequence[Any]], owner: str) -> None:
        self.study = study
        self.owner = owner
        self._storage: BaseStorage = study._storage
        self._study_id = study._study_id
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(tuple(options)) for name, options in choices.items()
        }
        self._ids: dict[int, int] = {}
        self.running: dict[int, Attributes] = {}
        self.look_for_queue = True

    def trials(self) -> list[FrozenTrial]:
        """Every trial, by number."""
        return self.study.get_trials(deepcopy=False)

    def queue(self, draw: Draw, attributes: Attributes) -> int:
        """Put a draw in the queue; its trial's number."""
        with protected():
            self.look_for_queue = True
            return self._put(draw, attributes)

    def begin(self, draw: Draw, attributes: Attributes) -> int | None:
        """Begin a trial; its number, or None where another driver took it from the queue in that moment."""
        with protected():
            number = self._put(draw, {**attributes, DRIVER: self.owner})
            if not self._claim(number):
                return None
            self.running[number] = dict(attributes)
            return number

    def take(self) -> FrozenTrial | None:
        """The first draw in the queue, now running here; None where there is none."""
        if not self.look_for_queue:
            return None
        with protected():
            for trial in self.trials():
                if trial.state == TrialState.WAITING and not trial.user_attrs.get("rungs"):
                    self._ids[trial.number] = trial._trial_id
                    if self._claim(trial.number):
                        self.record(trial.number, {DRIVER: self.owner})
                        return trial
        self.look_for_queue = False
        return None

    def record(self, number: int, attributes: Attributes) -> None:
        """Store what became known of a running trial.

        Raises:
            TakenAwayError: it is another driver's.
        """
        try:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(self._ids[number], key, value)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise TakenAwayError(number) from error
        self.running[number] |= attributes

    def end(
        self,
        number: int,
        state: TrialState,
        *,
        values: Sequence[float] | None = None,
        attributes: Attributes | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        """Finish a trial; it stays as it is where another driver took it away.

        Args:
            number: of the trial.
            state: COMPLETE, PRUNED or FAIL.
            values: of a complete one.
            attributes: stored before the state is.
            constraints: by name; 0 or less where they are kept.
        """
        with protected():
            with suppress(TakenAwayError, optuna.exceptions.UpdateFinishedTrialError):
                if constraints:
                    trial = optuna.trial.Trial(self.study, self._ids[number])
                    for key, value in constraints.items():
                        trial.set_constraint(key, value)
                self.record(number, {**(attributes or {}), "finished_at": time.time()})
                self._storage.set_trial_state_values(self._ids[number], state, values)
            del self.running[number]
        return self._storage.get_trial(self._ids[number])

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Say all the while that this driver and its trials are alive, where the storage keeps such a record."""
        interval = self._interval()
        if interval is None:
            yield
            return
        over = threading.Event()

        def beat() -> None:
            while not over.wait(interval / 2):
                for number in list(self.running):
                    # The storage being away for a moment is the driver's to notice.
                    with suppress(optuna.exceptions.OptunaError):
                        self._heartbeat(number)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def grace_seconds(self) -> float:
        """Of silence, after which a driver is taken for dead; 0 where the storage keeps no record of that."""
        return float(MISSED_HEARTBEATS * (self._interval() or 0))

    def fail_stale(self) -> bool:
        """Fail the trials whose driver has said nothing for too long; whether there were any."""
        if self._interval() is None:
            return False
        found = bool(self._storage._get_stale_trial_ids(self._study_id))  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        return found

    def abandon(self, trial: FrozenTrial) -> None:
        """Fail a trial that a driver left; nothing where another driver did so first."""
        try:
            self._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            pass

    def replace(
        self,
        left: FrozenTrial,
        state: TrialState,
        *,
        values: Sequence[float] | None = None,
        add: Attributes | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> int | None:
        """Give a trial that was left another in its place, once.

        Args:
            left: the trial.
            state: of the other: finished with what was known, or WAITING to be done again.
            values: of a complete one.
            add: attributes beside those that it takes over.
            constraints: of a finished one.

        Returns:
            Number of the other; None where there is one already.
        """
        with protected():
            if self._replaced(left.number) is not None:
                return None
            again = {"duplicate_of"} if state == TrialState.WAITING else set()
            kept = {key: value for key, value in left.user_attrs.items() if key not in _ITS_OWN | again}
            kept |= {**(add or {}), RECOVERS: left.number}
            self.look_for_queue = True
            # Not finished at once: of two drivers that do this, one takes its own back.
            number = self._put(left.params, kept)
            if state == TrialState.WAITING and self._replaced(left.number) == number:
                return number
            return number if self.conclude(number, left.number, state, values, constraints) else None

    def conclude(
        self,
        number: int,
        left: int,
        state: TrialState,
        values: Sequence[float] | None,
        constraints: Mapping[str, float] | None,
    ) -> bool:
        """Finish a waiting trial in the place of one that was left; False where that is another's to do.

        Args:
            number: of the trial.
            left: number of the one whose place it has.
            state: to finish it with.
            values: of a complete one.
            constraints: of it.
        """
        if (first := self._replaced(left)) != number:
            self.withdraw(number, f"trial {first} is in its place already")
            return False
        if not self._claim(number):
            return False
        self.end(number, state, values=values, constraints=constraints)
        return True

    def withdraw(self, number: int, reason: str) -> None:
        """Fail a waiting trial that nothing shall take the place of; nothing where another driver works on it."""
        with protected():
            if self._claim(number):
                self.end(number, TrialState.FAIL, attributes={"reason": reason, INTERRUPTED: True, "withdrawn": True})

    def _replaced(self, number: int) -> int | None:
        return next((trial.number for trial in self.trials() if trial.user_attrs.get(RECOVERS) == number), None)

    def _put(self, draw: Draw, attributes: Attributes) -> int:
        template = create_trial(
            state=TrialState.WAITING,
            params=dict(draw),
            distributions={name: self._distributions[name] for name in draw},
            user_attrs=dict(attributes),
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        number = self._storage.get_trial(trial_id).number
        self._ids[number] = trial_id
        return number

    def _claim(self, number: int) -> bool:
        if number not in self._ids:  # another driver has put it there
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._heartbeat(number)
        try:
            claimed = self._storage.set_trial_state_values(self._ids[number], TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        if claimed:
            self.running[number] = {}
        return claimed

    def _heartbeat(self, number: int) -> None:
        if self._interval() is not None:
            self._storage.record_heartbeat(self._ids[number])  # type: ignore[attr-defined]

    def _interval(self) -> int | None:
        asked = getattr(self._storage, "get_heartbeat_interval", None)
        return None if asked is None else asked()
