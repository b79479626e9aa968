"""The trials of a study in Optuna's storage: the one source of truth, written before anything is announced.

    state      what it is
    WAITING    a draw in the queue; whoever makes it RUNNING works on it
    RUNNING    at work, by the driver that ``driver`` names
    COMPLETE   judged at the last rung: values are accuracy, latency[, energy]
    PRUNED     turned away by a gate (``gate``, ``reason``), or judged and stopped at a lower rung (``stopped``); a later
               trial may go on from there (``continues``)
    FAIL       went wrong (``reason``); or was left by a driver that ended, and another trial has its place

A repetition of a candidate has the state and values of the first, and its number in ``duplicate_of``.

A trial is put there as WAITING with its draw and a first heartbeat, then made RUNNING, which the database lets one
driver do. Of two trials that claim the same thing (a candidate, a place to take) the lower number has it, whichever
machine its driver runs on: numbers are given out one after the other, and each looks after it has its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from vnas.search.engine.protocol import Attributes, Draw
from vnas.search.interrupts import protected

DRIVER, RECOVERS, INTERRUPTED = "driver", "recovers", "interrupted"
_ITS_OWN = frozenset({DRIVER, INTERRUPTED, "reason", "traceback", "unexpected", "seconds"})
"""What a trial does not hand on to the one that takes its place."""


class Ledger:
    """Reads and writes the trials of one study.

    Args:
        study: in its storage.
        choices: what each name may be.
        owner: name of this driver.
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
        self._beaten = time.monotonic()

    def trials(self) -> list[FrozenTrial]:
        """Every trial, by number."""
        return self.study.get_trials(deepcopy=False)

    def queue(self, draw: Draw, attributes: Attributes) -> int:
        """Put a draw in the queue; its trial's number."""
        with protected():
            return self._put(draw, attributes)

    def begin(self, draw: Draw, attributes: Attributes) -> int | None:
        """Begin a trial; its number, or None where another driver took it from the queue in that moment."""
        with protected():
            number = self._put(draw, {**attributes, DRIVER: self.owner})
            return number if self._claim(number) else None

    def take(self) -> FrozenTrial | None:
        """The first draw in the queue, now running here; None where there is none."""
        with protected():
            for trial in self.trials():
                if trial.state == TrialState.WAITING:
                    self._ids[trial.number] = trial._trial_id
                    if self._claim(trial.number):
                        self.record(trial.number, {DRIVER: self.owner})
                        return trial
        return None

    def record(self, number: int, attributes: Attributes) -> None:
        """Store what became known of a running trial."""
        for key, value in attributes.items():
            self._storage.set_trial_user_attr(self._ids[number], key, value)
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
        """Finish a trial.

        Args:
            number: of the trial.
            state: COMPLETE, PRUNED or FAIL.
            values: of a complete one.
            attributes: stored before the state is.
            constraints: by name; 0 or less where they are kept.
        """
        with protected():
            if constraints:
                trial = optuna.trial.Trial(self.study, self._ids[number])
                for key, value in constraints.items():
                    trial.set_constraint(key, value)
            self.record(number, {**(attributes or {}), "finished_at": time.time()})
            self._storage.set_trial_state_values(self._ids[number], state, values)
            del self.running[number]
        return self._storage.get_trial(self._ids[number])

    def beat(self) -> None:
        """Say that this driver and its trials are alive, where the storage keeps such a record."""
        interval = self._interval()
        if interval is None or time.monotonic() - self._beaten < interval / 2:
            return
        for number in self.running:
            self._heartbeat(number)
        self._beaten = time.monotonic()

    def fail_stale(self) -> None:
        """Fail the trials whose driver has said nothing for too long."""
        if self._interval() is not None:
            optuna.storages.fail_stale_trials(self.study)

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
            kept = {key: value for key, value in left.user_attrs.items() if key not in _ITS_OWN}
            kept |= {**(add or {}), RECOVERS: left.number}
            number = self._put(left.params, kept, state=state, values=values, constraints=constraints)
            first = self._replaced(left.number)
            if first != number and state == TrialState.WAITING and self._claim(number):
                self.end(number, TrialState.FAIL, attributes={"reason": f"trial {first} is in its place already"})
            return number if first == number else None

    def _replaced(self, number: int) -> int | None:
        return next((trial.number for trial in self.trials() if trial.user_attrs.get(RECOVERS) == number), None)

    def _put(
        self,
        draw: Draw,
        attributes: Attributes,
        *,
        state: TrialState = TrialState.WAITING,
        values: Sequence[float] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> int:
        template = create_trial(
            state=state,
            values=values,
            params=dict(draw),
            distributions={name: self._distributions[name] for name in draw},
            user_attrs=dict(attributes),
            constraints=dict(constraints or {}),
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        number = self._storage.get_trial(trial_id).number
        self._ids[number] = trial_id
        return number

    def _claim(self, number: int) -> bool:
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
