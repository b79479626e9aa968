"""The engine beside the old loop: rungs, gates, limits, workers that die, runs that end anywhere, several drivers."""

import itertools
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from fake_studies import Answers, Lab, Quiet, Remembered, WorkerDiedError, Workers, accuracy_of, lab, latency_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from vnas.config import GatesConfig
from vnas.errors import MeasurementError, TrainingError, VnasError
from vnas.search.engine.driver import LOOKING_SHARE, LOOKS_AT_MOST, STUCK_AFTER, Driver
from vnas.search.engine.protocol import Event, Job
from vnas.search.engine.recovery import Recovered
from vnas.search.sampling.surrogate import Guess
from vnas.search.tabular.simulated import SimulatedExecutor

ENERGY = ("latency_ms", "energy_mj")
TWO, THREE = (1.0, 4.0), (1.0, 3.0, 9.0)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnas.search.engine.driver.Suggester", Remembered)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers that look at what the others did at every turn."""
    monkeypatch.setattr("vnas.search.engine.driver.SYNC_SECONDS", 0.05)
    monkeypatch.setattr("vnas.search.engine.driver.WAIT_SECONDS", 0.01)


def told_of(driver: Driver) -> list[tuple[str, float | None]]:
    """Digest and accuracy of all that the sampler was told."""
    told = getattr(driver._suggester, "told", [])
    return [(f"{draw['a']}-{draw['b']}", one.accuracy) for draw, one in told]


def consistent(study: Lab, driver: Driver) -> None:
    """What holds of every study that came to its end; a limit may leave draws in its queue."""
    trials = [trial for trial in study.trials() if trial.state != TrialState.WAITING or not study.rules.limits.epochs]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    rungs = len(study.problem.rungs)
    for entry in driver.book.entries.values():
        assert entry.running is None or entry.queued
        assert [found["val_top1"] for found in entry.rungs] == [
            accuracy_of(entry.attributes["candidate"], rungs - 1 - rung) for rung in range(len(entry.rungs))
        ]
    names = list(study.rules.constraints({}))
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            digest = trial.user_attrs["candidate"]
            assert trial.values[:2] == [accuracy_of(digest, 0), latency_of(digest)]
        if trial.user_attrs.get("rungs"):
            assert "gate" not in trial.user_attrs
        if trial.state == TrialState.PRUNED:
            assert trial.user_attrs.keys() & {"gate", "stopped", "duplicate_of"}
        if trial.state != TrialState.FAIL:
            assert list(trial.constraints) == names
            if "latency_ms" in trial.user_attrs:
                assert trial.constraints == study.rules.constraints(trial.user_attrs)
    # A driver that only reads comes to the same.
    other = study.driver(reporter=Quiet())
    assert other.book.counted == driver.book.counted
    assert {digest: entry.rungs for digest, entry in other.book.entries.items() if entry.rungs} == {
        digest: entry.rungs for digest, entry in driver.book.entries.items() if entry.rungs
    }


def first_rung(study: Lab, digest: str) -> float:
    return accuracy_of(digest, len(study.problem.rungs) - 1)


# Rungs


@pytest.mark.parametrize("rungs", [TWO, THREE])
@pytest.mark.parametrize("objectives", [("latency_ms",), ENERGY])
@pytest.mark.parametrize("slots", [1, 4])
def test_some_go_on_and_each_is_one_candidate(rungs: tuple[float, ...], objectives: Any, slots: int) -> None:
    study = lab(16, rungs=rungs, objectives=objectives)
    driver = study.run(SimulatedExecutor(study.answers, slots))
    assert driver.book.counted == 16
    reached = [sum(len(entry.rungs) > rung for entry in driver.book.entries.values()) for rung in range(len(rungs))]
    assert reached[0] == 16
    assert all(before >= after >= 1 for before, after in itertools.pairwise(reached))
    assert set(study.answers.trained().values()) == {1}
    consistent(study, driver)

    first, above = driver.book.epochs()
    assert first == 16 * rungs[0]
    assert above <= first + rungs[-1] + 1e-9  # spend = 0.5, beside the first candidate of each rung
    for trial in study.trials():
        if "continues" in trial.user_attrs:
            before = study.trials()[trial.user_attrs["continues"]]
            assert before.params == trial.params
            assert trial.number > before.number
            assert len(trial.user_attrs["rungs"]) > len(before.user_attrs["rungs"]) or "continues" in before.user_attrs
        values = trial.values or []
        assert len(values) in (0, 1 + len(objectives))


def test_those_that_go_on_are_on_the_front_of_the_first_rung() -> None:
    study = lab(20, rungs=TWO, options=(6, 6), last=True, always=0, spend=0.3)
    driver = study.run()
    entries = list(driver.book.judged(0))
    climbed = [entry for entry in entries if len(entry.rungs) == 2]
    assert climbed
    for entry in climbed:
        mine = entry.latency_ms, entry.rungs[0]["val_top1"]
        better = [
            other
            for other in entries
            if other.latency_ms < mine[0] and other.rungs[0]["val_top1"] > mine[1] and len(other.rungs) == 1
        ]
        assert not better


def test_with_last_nobody_goes_on_before_the_last_candidate_was_begun() -> None:
    study = lab(12, rungs=TWO, last=True, always=0)
    study.run()
    rungs = [rung for _, rung in study.answers.jobs("train")]
    assert rungs == sorted(rungs)
    assert rungs.count(1) >= 1
    study = lab(12, rungs=TWO, last=False, always=0)
    study.run()
    rungs = [rung for _, rung in study.answers.jobs("train")]
    assert rungs != sorted(rungs)


@pytest.mark.parametrize("always", [1, 3])
def test_the_first_candidates_always_go_on(always: int) -> None:
    study = lab(8, rungs=THREE, always=always, last=True, spend=0.01)
    driver = study.run()
    entries = list(driver.book.judged(0))
    assert [len(entry.rungs) for entry in entries] == [3] * always + [1] * (8 - always)
    assert [trial.state for trial in study.trials()[:always]] == [TrialState.COMPLETE] * always
    assert all("continues" not in trial.user_attrs for trial in study.trials())


@pytest.mark.parametrize("slots", [1, 3])
def test_presets_always_go_on_and_come_first(slots: int) -> None:
    study = lab(8, rungs=THREE, always=0, last=True, spend=0.01, sampler="local")
    ledger = study.ledger()
    for draw in ({"a": 0, "b": 0}, {"a": 5, "b": 0}):
        ledger.queue(draw, {"preset": True})
    driver = study.run(SimulatedExecutor(study.answers, slots))
    assert list(driver.book.entries)[:2] == ["0-0", "5-0"]
    lengths = {digest: len(entry.rungs) for digest, entry in driver.book.entries.items() if entry.rungs}
    assert {digest for digest, length in lengths.items() if length == 3} == {"0-0", "5-0"}
    assert driver.book.counted == 8
    consistent(study, driver)


def test_a_preset_that_was_interrupted_on_its_way_still_goes_on() -> None:
    study = lab(4, rungs=TWO, always=0, last=True, spend=0.01)
    study.ledger().queue({"a": 5, "b": 0}, {"preset": True})
    study.answers.trainings += [None, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        study.run()
    driver = study.run()
    assert len(driver.book.entries["5-0"].rungs) == 2
    assert set(study.answers.trained().values()) == {1}


def test_a_preset_over_the_budget_is_turned_away() -> None:
    study = lab(3, budget_ms=3.0)
    study.ledger().queue({"a": 5, "b": 5}, {"preset": True})
    driver = study.run()
    assert driver.book.entries["5-5"].status == "rejected"
    assert ("5-5", 0) not in study.answers.trained()


@pytest.mark.parametrize("sampler", ["local", "random", "tpe", "nsga2"])
@pytest.mark.parametrize("slots", [1, 4])
def test_the_sampler_only_ever_sees_the_first_rung(sampler: str, slots: int) -> None:
    study = lab(24, rungs=THREE, sampler=sampler, objectives=ENERGY if sampler == "tpe" else ("latency_ms",))
    driver = study.run(SimulatedExecutor(study.answers, slots))
    assert driver.book.counted == 24
    for digest, accuracy in told_of(driver):
        assert accuracy in (None, first_rung(study, digest))
    trials = driver._suggester._study.get_trials()
    assert all(trial.state.is_finished() for trial in trials)
    trained = {digest for digest, entry in driver.book.entries.items() if entry.rungs}
    assert {digest for digest, accuracy in told_of(driver) if accuracy is not None} == trained
    assert max(len(trial.values) for trial in trials if trial.values) == 1 + len(study.rules.objectives)


@pytest.mark.parametrize("sampler", ["local", "random"])
def test_a_sampler_that_goes_on_knows_what_one_that_went_through_knows(sampler: str) -> None:
    study = lab(30, rungs=TWO, sampler=sampler)
    driver = study.run()
    later = study.driver()
    known = {digest for digest, accuracy in told_of(driver) if accuracy is not None}
    assert {digest for digest, accuracy in told_of(later) if accuracy is not None} == known
    for digest, accuracy in told_of(later):
        assert accuracy in (None, first_rung(study, digest))
    assert all(trial.state.is_finished() for trial in later._suggester._study.get_trials())


# Gates


def test_the_cost_gate_asks_before_anything_is_measured() -> None:
    study = lab(10, costs={"params": 399.0})
    driver = study.run()
    assert driver.book.counted == 10
    assert {digest for digest, _ in study.answers.jobs("measure")} == {
        digest for digest, entry in driver.book.entries.items() if entry.status == "judged"
    }
    assert all(int(digest[0]) < 3 for digest, _ in study.answers.jobs("measure"))
    turned_away = [trial for trial in study.finished().values() if trial.user_attrs.get("gate") == "cost"]
    assert all(trial.user_attrs["params"] > 399.0 for trial in turned_away)
    first = next(trial for trial in turned_away if "duplicate_of" not in trial.user_attrs)
    over = first.user_attrs["params"] - 399.0
    assert first.constraints == {"params_over_limit": over}
    assert first.user_attrs["reason"] == f"params {399.0 + over:g} is over the limit of 399"
    consistent(study, driver)


def test_the_budget_gate_counts_and_nothing_it_turns_away_is_trained() -> None:
    study = lab(10, budget_ms=4.0, gates=GatesConfig(predicted=False))
    driver = study.run()
    assert driver.book.counted == 10
    assert all(latency_of(digest) <= 4.0 for digest, _ in study.answers.jobs("train"))
    slow = {digest for digest, entry in driver.book.entries.items() if entry.status == "rejected"}
    assert all(latency_of(digest) > 4.0 for digest in slow)
    assert driver.book.saved() == {"budget": len(slow)}
    lines = [line for line in study.reporter.lines if line.state == "rejected"]
    assert len(lines) == len(slow)
    assert all("is over the budget of 4 ms" in line.note for line in lines)
    for entry in driver.book.entries.values():
        if entry.status == "rejected":
            trial = study.trials()[entry.number]
            assert trial.constraints == {"latency_over_budget_ms": trial.user_attrs["latency_ms"] - 4.0}
    consistent(study, driver)


def test_the_predicted_gate_spares_measurements() -> None:
    study = lab(36, budget_ms=3.5, options=(12, 12))
    driver = study.run()
    saved = driver.book.saved()
    assert saved["predicted"] >= 5
    predicted = {d for d, entry in driver.book.entries.items() if entry.attributes.get("gate") == "predicted"}
    assert not predicted & {digest for digest, _ in study.answers.jobs("measure")}
    assert all(latency_of(digest) > 3.5 for digest in predicted)
    consistent(study, driver)


def test_the_hopeless_gate_spares_trainings_but_not_the_front() -> None:
    study = lab(30, options=(4, 20), sampler="random")
    # Beside b, which costs almost nothing, only accuracy counts; a model learns the sum quickly.
    driver = study.run()
    saved = driver.book.saved()
    assert saved.get("hopeless", 0) >= 1
    hopeless = {d for d, entry in driver.book.entries.items() if entry.attributes.get("gate") == "hopeless"}
    assert not hopeless & {digest for digest, _ in study.answers.jobs("train")}
    latency, accuracy = driver.book.objectives()
    for digest in hopeless:
        assert ((latency <= latency_of(digest)) & (accuracy >= accuracy_of(digest, 0))).any()
    consistent(study, driver)


@pytest.mark.parametrize("gate", ["cost", "predicted", "budget", "hopeless", "promise"])
def test_each_gate_can_be_off(gate: str) -> None:
    rules: dict[str, Any] = {
        "cost": {"costs": {"params": 399.0}},
        "predicted": {"budget_ms": 3.5, "options": (12, 12), "trials": 26},
        "budget": {"budget_ms": 4.0, "gates": GatesConfig(predicted=False, budget=False)},
        "hopeless": {"options": (4, 20), "trials": 30},
        "promise": {"sampler": "local", "options": (12, 12), "trials": 40},
    }[gate]
    off = {"gates": GatesConfig(**{gate: False}), **rules}
    if gate == "predicted":
        off["gates"] = GatesConfig(predicted=False)
    study = lab(**{"trials": 20, **off})
    driver = study.run()
    assert gate not in driver.book.saved()
    assert driver.book.counted == study.rules.limits.candidates
    assert not any(trial.user_attrs.get("gate") == gate for trial in study.trials())
    on = lab(**{"trials": 20, **rules, "gates": GatesConfig(predicted=gate == "predicted")})
    assert gate in on.run().book.saved()


@pytest.mark.parametrize("writes", range(1, 30))
def test_a_repetition_that_is_cut_off_is_no_second_result(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(1, options=(2, 2), rungs=TWO)
    study.run()
    (draw,) = [trial.params for trial in study.trials()]
    study.ledger().queue(draw, {})
    more = replace(study.rules.limits, candidates=2)
    driver = study.driver(limits=more)
    record, left = driver._ledger._storage.set_trial_user_attr, [writes]

    def cut(trial_id: int, key: str, value: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit
        record(trial_id, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(driver._ledger._storage, "set_trial_user_attr", cut)
        patch.setattr(driver, "_put_back", lambda: None)  # as if it had been killed
        with suppress(SystemExit):
            driver.run(Workers(study.answers))
    later = study.driver(limits=more)
    later.run(Workers(study.answers))
    results = Counter(
        (trial.user_attrs["candidate"], len(trial.user_attrs["rungs"]))
        for trial in study.trials()
        if trial.state != TrialState.FAIL and "duplicate_of" not in trial.user_attrs
    )
    assert max(results.values()) == 1


class Repeating:
    """A suggester that has one draw only."""

    def __init__(self, suggester: Any, draw: dict[str, Any]) -> None:
        self._suggester, self._draw = suggester, draw

    def ask(self, **how: Any) -> tuple[int, dict[str, Any]]:
        return self._suggester.begin(self._draw), dict(self._draw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._suggester, name)


def test_without_the_duplicate_gate_a_sampler_that_repeats_itself_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(4, options=(2, 3), gates=GatesConfig(duplicate=False))
    driver = study.driver()
    same = {"a": 1, "b": 2}
    monkeypatch.setattr(driver, "_suggester", Repeating(driver._suggester, same))
    driver.run(Workers(study.answers))
    assert driver.book.counted == 4
    assert study.answers.trained()["1-2", 0] > STUCK_AFTER


def test_without_the_duplicate_gate_a_draw_is_trained_each_time() -> None:
    study = lab(4, options=(2, 3), gates=GatesConfig(duplicate=False))
    for draw in [{"a": 0, "b": 0}] * 3:
        study.ledger().queue(draw, {})
    driver = study.run()
    assert study.answers.trained()["0-0", 0] >= 3
    assert driver.book.counted == 4
    assert not any("duplicate_of" in trial.user_attrs for trial in study.trials())


def test_what_was_put_off_may_come_again_and_is_trained_once() -> None:
    study = lab(60, options=(12, 12), sampler="local", rungs=TWO)
    driver = study.run(SimulatedExecutor(study.answers, 2))
    put_off = {trial.user_attrs["candidate"] for trial in study.trials() if trial.user_attrs.get("gate") == "promise"}
    assert put_off
    trained = study.answers.trained()
    assert set(trained.values()) == {1}
    came_again = {digest for digest in put_off if (digest, 0) in trained}
    assert came_again
    for digest in came_again:
        assert driver.book.entries[digest].status == "judged"
        assert driver.book.entries[digest].attributes.get("gate") is None
        assert study.answers.jobs("measure").count((digest, 0)) == 1
    assert driver.book.saved().get("promise", 0) == len(put_off - came_again)
    consistent(study, driver)


@pytest.mark.parametrize("look", [0.0, 0.05, 1.0])
def test_looking_costs_no_more_than_its_share_of_the_training(look: float) -> None:
    study = lab(24, options=(16, 16), sampler="local", gates=GatesConfig(hopeless=False))
    driver = study.driver()
    workers = Workers(study.answers, look=look)
    driver.run(workers)
    looked = [trial for trial in study.trials() if trial.user_attrs.get("gate") == "promise"]
    assert look * len(looked) <= LOOKING_SHARE * 24
    assert look > 0.5 or looked  # where a look is cheap it is taken
    assert driver.book.counted == 24


@pytest.mark.parametrize("look", [0.0, 8.0])
def test_so_with_what_turns_out_to_be_hopeless(look: float) -> None:
    study = lab(60, options=(16, 16), sampler="random", gates=GatesConfig(promise=False))
    study.driver().run(Workers(study.answers, look=look))
    looked = [trial for trial in study.trials() if trial.user_attrs.get("gate") == "hopeless"]
    assert look * len(looked) <= LOOKING_SHARE * 60
    assert look or 8.0 * len(looked) > LOOKING_SHARE * 60  # where looking costs nothing, more are turned away


def test_a_study_whose_candidates_are_all_without_hope_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(30, options=(16, 16), sampler="random")
    driver = study.driver()
    monkeypatch.setattr(driver._suggester, "guess_accuracy", lambda draw: Guess(0.0, 0.0))
    driver.run(Workers(study.answers))
    assert driver.book.counted == 30
    firsts = [trial for trial in study.trials() if "duplicate_of" not in trial.user_attrs]
    hopeless = itertools.groupby(trial.user_attrs.get("gate") == "hopeless" for trial in firsts)
    in_a_row = [len(list(group)) for off, group in hopeless if off]
    assert max(in_a_row) == LOOKS_AT_MOST


def test_not_all_is_put_off_in_a_small_space() -> None:
    study = lab(100, options=(5, 5), sampler="local", gates=GatesConfig(hopeless=False))
    driver = study.run()
    firsts = [trial for trial in study.trials() if "duplicate_of" not in trial.user_attrs]
    put_off = itertools.groupby(trial.user_attrs.get("gate") == "promise" for trial in firsts)
    in_a_row = [len(list(group)) for off, group in put_off if off]
    assert max(in_a_row, default=0) <= LOOKS_AT_MOST
    assert driver.book.counted == 25
    assert study.reporter.notes == ["the space seems exhausted after 25 candidates: draws only repeat them"]


def test_a_study_that_nothing_passes_ends_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnas.search.engine.driver.TURNED_AWAY_AFTER", 50)
    study = lab(5, costs={"params": 1.0}, options=(40, 40))
    driver = study.run()
    assert driver.book.counted == 0
    assert study.answers.asked == []
    assert study.reporter.notes == [
        "the last 50 candidates were all turned away before training; "
        "the limits of the study seem to leave nothing of the space"
    ]


def test_the_same_constraints_in_the_same_order_on_every_finished_trial() -> None:
    study = lab(
        14, rungs=TWO, budget_ms=4.5, costs={"params": 520.0, "a_missing_one": 1.0}, gates=GatesConfig(cost=False)
    )
    study.answers.trainings += [None, None, MeasurementError("no clock"), RuntimeError("boom")]
    driver = study.run()
    names = ["latency_over_budget_ms", "params_over_limit", "a_missing_one_over_limit"]
    states = set()
    for trial in study.trials():
        assert list(trial.constraints) == names, trial
        states.add((trial.state.name, "continues" in trial.user_attrs, "duplicate_of" in trial.user_attrs))
        if "duplicate_of" not in trial.user_attrs:
            assert trial.constraints["params_over_limit"] == trial.user_attrs["params"] - 520.0
    assert {
        ("COMPLETE", False, False),
        ("COMPLETE", True, False),
        ("PRUNED", False, False),
        ("FAIL", False, False),
    } <= states
    assert all("params" in entry.attributes for entry in driver.book.entries.values())


def test_nothing_that_breaks_a_constraint_goes_on() -> None:
    gates = GatesConfig(cost=False, budget=False, predicted=False)
    study = lab(16, rungs=TWO, always=0, budget_ms=4.0, costs={"params": 301.0}, gates=gates)
    driver = study.run()
    climbed = [entry for entry in driver.book.entries.values() if len(entry.rungs) == 2]
    assert climbed
    assert all(entry.latency_ms <= 4.0 and entry.attributes["params"] <= 301.0 for entry in climbed)


def test_draws_that_name_nothing_fail_with_their_reason() -> None:
    study = lab(12, holes=lambda a, b: (a + b) % 3 == 0)
    driver = study.run()
    assert driver.book.counted == 12
    failed = [trial for trial in study.trials() if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.user_attrs["reason"].startswith("nothing at") for trial in failed)
    consistent(study, driver)


# Limits


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("epochs", [3.5, 8.0, 21.0, 40.0])
@pytest.mark.parametrize("always", [0, 1, 3])
def test_the_limit_of_epochs_is_never_exceeded(epochs: float, last: bool, slots: int, always: int) -> None:
    study = lab(1000, rungs=THREE, epochs=epochs, last=last, always=always, options=(12, 12))
    for draw in ({"a": 1, "b": 1}, {"a": 2, "b": 2}):
        study.ledger().queue(draw, {"preset": True})
    driver = study.run(SimulatedExecutor(study.answers, slots))
    assert driver.book.counted >= 1
    assert sum(driver.book.epochs()) <= epochs + 1e-9
    assert sum(driver.book.epochs()) > epochs - THREE[-1]
    consistent(study, driver)


def test_the_limit_of_epochs_is_used_up_and_shared_out() -> None:
    study = lab(1000, rungs=TWO, epochs=40.0, spend=0.5, options=(12, 12))
    driver = study.run()
    first, above = driver.book.epochs()
    assert first == 20.0
    assert 20.0 - 3.0 < above <= 20.0


@pytest.mark.parametrize("slots", [1, 3])
def test_no_candidate_is_begun_after_the_time_limit(slots: int) -> None:
    study = lab(1000, rungs=TWO, seconds=30.0, options=(12, 12))
    executor = SimulatedExecutor(study.answers, slots)
    driver = study.run(executor)
    assert (
        study.reporter.notes == [f"the time limit of 0.5 min is reached after {driver.book.counted} candidates"]
        or study.reporter.notes == []
    )
    assert 30.0 - 4.0 <= executor.clock() <= 30.0 + 4.0
    assert driver.book.counted >= 6 * slots
    consistent(study, driver)
    study = lab(1000, rungs=(1.0,), seconds=30.0, options=(12, 12))
    driver = study.run(SimulatedExecutor(study.answers, 1))
    assert driver.book.counted == 30
    assert study.reporter.notes == ["the time limit of 0.5 min is reached after 30 candidates"]


# Failures


def test_a_worker_that_dies_is_replaced_and_its_trial_tried_once_more() -> None:
    study = lab(4)
    study.answers.trainings += [None, WorkerDiedError()]
    driver = study.run()
    first, second = (trial for trial in study.trials() if trial.params == study.trials()[1].params)
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["interrupted"] is True
    assert first.user_attrs["reason"] == "the worker was killed"
    assert (second.user_attrs["attempt"], second.user_attrs["recovers"]) == (2, first.number)
    assert driver.book.counted == 4
    assert [line.state for line in study.reporter.lines].count("interrupted") == 1
    consistent(study, driver)


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_worker_that_dies_again_fails_its_trial_with_the_reason(retries: int) -> None:
    study = lab(4, retries=retries)
    study.answers.trainings += [None, *[WorkerDiedError()] * (retries + 1)]
    driver = study.run()
    asked = study.answers.jobs("train")
    victim = asked[1]
    assert asked.count(victim) == retries + 1
    tries = [trial for trial in study.trials() if trial.user_attrs["candidate"] == victim[0]]
    assert [trial.user_attrs.get("interrupted", False) for trial in tries] == [True] * retries + [False]
    assert tries[-1].user_attrs["reason"] == "the worker was killed"
    assert driver.book.entries[victim[0]].status == "failed"
    assert driver.book.counted == 4  # with the one that failed
    consistent(study, driver)


@pytest.mark.parametrize("how", ["chosen", "always", "preset"])
@pytest.mark.parametrize("deaths", [1, 5])
def test_a_worker_that_dies_above_the_first_rung(how: str, deaths: int) -> None:
    study = lab(6, rungs=TWO, always=int(how == "always"), last=how != "chosen", spend=0.5)
    study.ledger().queue({"a": 0, "b": 5}, {"preset": True} if how == "preset" else {})
    left = [deaths]

    def train(subject: Any, rung: int, progress: Callable[[float], None], real: Any = study.answers.train) -> Any:
        if (subject.digest, rung) == ("0-5", 1) and left[0]:
            left[0] -= 1
            study.answers.asked.append(("train", subject.digest, rung))
            raise WorkerDiedError
        return real(subject, rung, progress)

    study.answers.train = train  # type: ignore[method-assign]
    driver = study.run()
    entry = driver.book.entries["0-5"]
    tries = study.answers.jobs("train").count(("0-5", 1))
    assert tries == 2
    assert len(entry.rungs) == (2 if deaths == 1 else 1)
    assert entry.failed_above == (deaths > 1)
    assert study.answers.trained()["0-5", 0] == 1
    assert driver.book.counted == 6
    consistent(study, driver)


def test_a_candidate_that_fails_above_stays_judged_below_and_is_not_tried_again() -> None:
    study = lab(6, rungs=TWO, always=1)
    study.answers.trainings += [None, TrainingError("the loss became nan")]
    driver = study.run()
    digest, _ = study.answers.jobs("train")[1]
    entry = driver.book.entries[digest]
    assert (entry.status, len(entry.rungs), entry.failed_above) == ("judged", 1, True)
    assert study.answers.jobs("train").count((digest, 1)) == 1
    assert driver.book.counted == 6
    assert len(list(driver.book.judged(1))) >= 1
    again = study.driver()
    assert again.book.entries[digest].failed_above


def test_failures_of_a_candidate_are_not_retried_and_do_not_end_a_study() -> None:
    study = lab(8)
    study.answers.trainings += [TrainingError(f"the loss became nan {number}") for number in range(8)]
    driver = study.run()
    assert driver.book.counted == 8
    assert len(study.answers.jobs("train")) == len(set(study.answers.jobs("train"))) == 8
    assert study.states()["FAIL"] >= 8


def test_two_unexpected_failures_and_a_training_that_ends_do_not_end_a_study() -> None:
    study = lab(9)
    study.answers.trainings += [OSError("disk"), OSError("disk"), None] * 3
    assert study.run().book.counted == 9


def test_three_unexpected_failures_end_it_with_every_slot() -> None:
    study = lab(20)

    class Several(Workers):
        slots = 3

    study.answers.trainings += [None, *[OSError("disk")] * 20]
    with pytest.raises(VnasError, match="3 trials in a row failed with an unexpected error"):
        study.run(Several(study.answers))
    assert study.states()["RUNNING"] == 0
    before = dict(study.finished())
    study.answers.trainings.clear()
    driver = study.run()
    assert driver.book.counted == 20
    assert {number: trial.values for number, trial in before.items()} == {
        number: study.trials()[number].values for number in before
    }


# Runs that end anywhere


class Killed(BaseException):
    """An end that nothing cleans up after."""


class Ending(Workers):
    """Raises at the so-many-th wait."""

    def __init__(self, answers: Answers, error: BaseException, after: int, slots: int = 1) -> None:
        super().__init__(answers)
        self._error, self._left, self._slots = error, after, slots

    @property
    def slots(self) -> int:  # type: ignore[override]
        return self._slots

    def wait(self, seconds: float) -> Event | None:
        if self._left == 0:
            raise self._error
        self._left -= 1
        return super().wait(seconds)


def study_of(sampler: str = "local", storage: BaseStorage | None = None) -> Lab:
    study = lab(10, rungs=TWO, sampler=sampler, budget_ms=5.2, storage=storage)
    study.ledger().queue({"a": 2, "b": 2}, {"preset": True})
    return study


def ends_at(study: Lab, error: BaseException, after: int, slots: int = 1) -> bool:
    """Whether the run was ended."""
    try:
        driver = study.driver()
        if isinstance(error, Killed):
            driver._put_back = lambda: None  # type: ignore[method-assign]
        driver.run(Ending(study.answers, error, after, slots))
    except type(error):
        return True
    return False


def goes_on(study: Lab) -> None:
    """Another driver finishes, loses nothing, repeats nothing."""
    before = study.finished()
    stored = stored_rungs(study)
    trained = study.answers.trained()
    driver = study.run()
    assert driver.book.counted == 10
    after = study.finished()
    for number, trial in before.items():
        assert after[number].values == trial.values
        assert after[number].user_attrs == trial.user_attrs
        assert after[number].datetime_complete == trial.datetime_complete
    more = study.answers.trained() - trained
    assert not stored & more.keys()
    assert all(count == 1 for count in more.values())
    consistent(study, driver)
    assert len(driver.book.entries["2-2"].rungs) == 2  # the preset


def stored_rungs(study: Lab) -> set[tuple[str, int]]:
    return {
        (trial.user_attrs["candidate"], found["rung"])
        for trial in study.trials()
        for found in trial.user_attrs.get("rungs", ())
    }


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
@pytest.mark.parametrize("sampler", ["local", "random"])
def test_a_run_may_end_at_any_event(error: type[BaseException], slots: int, sampler: str) -> None:
    for after in range(200):
        study = study_of(sampler)
        if not ends_at(study, error(), after, slots):
            break
        if error is KeyboardInterrupt:
            assert study.states()["RUNNING"] == 0
        goes_on(study)
    else:
        pytest.fail("it never came to its end")
    assert after > 15


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=5), st.integers(1, 3))
def test_a_run_may_end_again_and_again(ends: list[tuple[int, bool]], slots: int) -> None:
    study = study_of()
    for after, killed in ends:
        ends_at(study, Killed() if killed else KeyboardInterrupt(), after, slots)
    goes_on(study)


class Failing(InMemoryStorage):
    """A database whose so-many-th write fails, and all after it until it is mended."""

    WRITES = ("create_new_trial", "set_trial_user_attr", "set_trial_system_attr", "set_trial_state_values")

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.lasting = True

    def _write(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self.lasting):
            raise optuna.exceptions.StorageInternalError("database is locked")

    def create_new_trial(self, *arguments: Any, **named: Any) -> Any:
        self._write()
        return super().create_new_trial(*arguments, **named)

    def set_trial_user_attr(self, *arguments: Any, **named: Any) -> Any:
        self._write()
        return super().set_trial_user_attr(*arguments, **named)

    def set_trial_system_attr(self, *arguments: Any, **named: Any) -> Any:
        self._write()
        return super().set_trial_system_attr(*arguments, **named)

    def set_trial_state_values(self, *arguments: Any, **named: Any) -> Any:
        self._write()
        return super().set_trial_state_values(*arguments, **named)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_storage_may_fail_at_any_write(lasting: bool) -> None:
    for write in itertools.count(1 if lasting else 2, 2):  # every second one for each, to save time
        storage = Failing()
        study = study_of("random", storage)
        storage.left, storage.lasting = write, lasting
        try:
            study.run()
            break
        except optuna.exceptions.StorageInternalError:
            storage.left = None
        goes_on(study)
    assert write > 100


def test_a_left_trial_has_its_place_taken_once() -> None:
    study = lab(4, rungs=TWO)
    assert ends_at(study, Killed(), 1)
    one, other = (Driver(study.problem, study.ledger(name), study.rules, Quiet()) for name in ("one", "other"))
    assert one.recover() == Recovered(requeued=1)
    assert other.recover() == Recovered()
    assert one.recover() == Recovered()
    assert study.states() == {"FAIL": 1, "WAITING": 1}


@pytest.mark.parametrize("judged", [0, 1, 2])
def test_two_drivers_that_recover_at_once_give_one_place(judged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(4, rungs=TWO)
    ledger, subject = study.ledger(), study.problem.subject({"a": 1, "b": 1})
    number = ledger.begin({"a": 1, "b": 1}, subject.attributes)
    assert number == 0
    found = [
        {"rung": rung, "val_top1": accuracy_of("1-1", 1 - rung), "epochs": TWO[rung], "epochs_spent": 1.0}
        for rung in range(judged)
    ]
    latency = {"latency_ms": latency_of("1-1"), "energy_mj": 1.0, "latency": {}}
    ledger.record(0, {**latency, **({"val_top1": found[-1]["val_top1"], "rungs": found} if found else {})})
    one, other = (Driver(study.problem, study.ledger(name), study.rules, Quiet()) for name in ("one", "other"))

    # The other recovers in the moment when the first has looked and not yet written.
    real = one._ledger._put
    at_once: list[Recovered] = []

    def put(*arguments: Any, **named: Any) -> int:
        if not at_once:
            at_once.append(Recovered())
            at_once[0] = other.recover()
        return real(*arguments, **named)

    monkeypatch.setattr(one._ledger, "_put", put)
    mine = one.recover()
    assert [sum((r.requeued, r.completed, r.stopped)) for r in (at_once[0], mine)] == [1, 0]
    third = study.driver()
    assert third.book.counted == (1 if judged else 0)
    third.run(Workers(study.answers))
    assert third.book.counted == 4
    assert all(("1-1", rung) not in study.answers.trained() for rung in range(judged))
    candidates = [
        trial.user_attrs["candidate"]
        for trial in study.trials()
        if trial.state == TrialState.COMPLETE
        and "duplicate_of" not in trial.user_attrs
    ]  # fmt: skip
    if judged != 2:  # a finished twin cannot be marked as one any more
        assert len(candidates) == len(set(candidates))


# Several at work


@pytest.mark.parametrize("sampler", ["local", "random"])
@pytest.mark.parametrize("slots", [2, 4, 9])
def test_several_slots_come_to_the_same_count(slots: int, sampler: str) -> None:
    study = lab(17, rungs=TWO, sampler=sampler, budget_ms=5.5)
    driver = study.run(SimulatedExecutor(study.answers, slots))
    assert driver.book.counted == 17
    assert set(study.answers.trained().values()) == {1}
    consistent(study, driver)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("sampler", ["random", "local"])
def test_two_drivers_share_a_study(sampler: str) -> None:
    # In memory, where a claim is exact; test_search_postgres.py does the same on a server. SQLite is not shared.
    study = lab(14, rungs=TWO, options=(4, 6), sampler=sampler, gates=GatesConfig(hopeless=False))
    study.ledger().queue({"a": 2, "b": 2}, {"preset": True})
    study.ledger().queue({"a": 3, "b": 3}, {"preset": True})
    answers = [Answers(TWO), Answers(TWO)]
    drivers: list[Driver] = []
    errors: list[BaseException] = []
    begin = threading.Barrier(2)

    def work(number: int) -> None:
        try:
            driver = study.driver(shared=True, owner=f"driver {number}", reporter=Quiet())
            drivers.append(driver)
            begin.wait()
            driver.run(Workers(answers[number]))
        except BaseException as error:  # noqa: BLE001  shown by the test
            errors.append(error)
            begin.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    trained = answers[0].trained() + answers[1].trained()
    assert set(trained.values()) == {1}
    assert sum(rung == 0 for _, rung in trained) == 14
    later = study.driver(reporter=Quiet())
    assert later.book.counted == 14
    assert all(entry.running is None for entry in later.book.entries.values())
    # One that fills the study while the other has only just taken a preset makes it needless.
    assert all(len(entry.rungs) == 2 for entry in later.book.entries.values() if entry.preset)
    assert study.states()["RUNNING"] == study.states()["WAITING"] == 0


class Stepped(Workers):
    """Lets the other have its turn at every wait."""

    def __init__(self, answers: Answers, turn: Callable[[], None]) -> None:
        super().__init__(answers)
        self._turn = turn

    def wait(self, seconds: float) -> Event | None:
        self._turn()
        return super().wait(seconds)


class Turns:
    """Threads that take turns, so that what happens is the same every time."""

    def __init__(self, count: int, order: Callable[[int], int]) -> None:
        self._there, self._order, self._at = set(range(count)), order, 0
        self._condition = threading.Condition()

    def _who(self) -> int:
        there = sorted(self._there)
        return there[self._order(self._at) % len(there)]

    def take(self, who: int) -> None:
        with self._condition:
            self._at += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._who() == who, timeout=0.05)

    def leave(self, who: int) -> None:
        with self._condition:
            self._there.discard(who)
            self._condition.notify_all()


@pytest.mark.usefixtures("hasty")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2), min_size=5, max_size=60), st.sampled_from(["random", "local"]))
def test_three_drivers_that_look_in_any_order(order: list[int], sampler: str) -> None:
    study = lab(9, rungs=TWO, options=(3, 5), sampler=sampler, gates=GatesConfig(hopeless=False))
    study.ledger().queue({"a": 2, "b": 2}, {"preset": True})
    turns = Turns(3, lambda at: order[at % len(order)])
    answers = [Answers(TWO) for _ in range(3)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            driver = study.driver(shared=True, owner=str(number), reporter=Quiet())
            driver.run(Stepped(answers[number], lambda: turns.take(number)))
        except BaseException as error:  # noqa: BLE001  shown by the test
            errors.append(error)
        finally:
            turns.leave(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    trained = sum((one.trained() for one in answers), answers[0].trained() - answers[0].trained())
    assert set(trained.values()) == {1}
    assert sum(rung == 0 for _, rung in trained) == 9
    later = study.driver(reporter=Quiet())
    assert later.book.counted == 9


def test_of_two_that_draw_the_same_the_lower_number_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(1, options=(2, 2))
    answers = [Answers(), Answers()]
    one, other = (study.driver(shared=True, owner=name, reporter=Quiet()) for name in ("one", "other"))
    draw = {"a": 1, "b": 1}
    for driver in (one, other):
        monkeypatch.setattr(driver, "_draw", lambda driver=driver: (driver._suggester.begin(draw), draw))
    began = one._ledger.begin

    def begin(*arguments: Any) -> int | None:
        number = began(*arguments)
        monkeypatch.setattr(one._ledger, "begin", began)
        # In the moment between its trial and its look at the others', another driver draws the same.
        other._executor, other._began = Workers(answers[1]), 0.0
        assert other._begin() is False
        return number

    monkeypatch.setattr(one._ledger, "begin", begin)
    one.run(Workers(answers[0]))
    assert answers[0].trained() == {("1-1", 0): 1}
    assert answers[1].trained() == {}
    assert [trial.state for trial in study.trials() if "duplicate_of" not in trial.user_attrs] == [TrialState.COMPLETE]
    assert study.driver().book.counted == 1


@pytest.mark.usefixtures("hasty")
def test_a_trial_with_a_lower_number_gives_way_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(1, options=(2, 2))
    draw = {"a": 1, "b": 1}
    one = study.driver(shared=True, owner="one", reporter=Quiet())
    monkeypatch.setattr(one, "_draw", lambda: (one._suggester.begin(draw), draw))
    began, other = one._ledger.begin, study.ledger("other")

    def begin(*arguments: Any) -> int | None:
        number = began(*arguments)
        monkeypatch.setattr(one._ledger, "begin", began)
        assert other.begin(draw, study.problem.subject(draw).attributes) == 1  # it has not looked yet
        return number

    monkeypatch.setattr(one._ledger, "begin", begin)
    one.run(Workers(study.answers))
    assert study.answers.trained() == {("1-1", 0): 1}
    assert study.trials()[0].state == TrialState.COMPLETE


@pytest.mark.usefixtures("hasty")
def test_a_draw_that_is_taken_away_in_the_moment_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(1, options=(2, 2))
    study.ledger().queue({"a": 1, "b": 1}, {})
    one = study.driver(shared=True, owner="one", reporter=Quiet())
    take = one._ledger.take

    def taken() -> Any:
        trial = take()
        monkeypatch.setattr(one._ledger, "take", take)
        study.ledger("other").abandon(study.trials()[0])  # it took this driver for dead
        return trial

    monkeypatch.setattr(one._ledger, "take", taken)
    one.run(Workers(study.answers))
    assert study.answers.trained() == {("1-1", 0): 1}
    assert [trial.state for trial in study.trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_of_two_that_send_a_candidate_on_one_withdraws() -> None:
    study = lab(3, rungs=TWO)
    ledger, subject = study.ledger(), study.problem.subject({"a": 1, "b": 1})
    assert ledger.begin({"a": 1, "b": 1}, subject.attributes) == 0
    found = {"rung": 0, "val_top1": accuracy_of("1-1", 1), "epochs": 1.0, "epochs_spent": 1.0}
    ledger.record(0, {**study.answers.measure(subject), "val_top1": found["val_top1"], "rungs": [found]})
    ledger.end(0, TrialState.PRUNED, attributes={"stopped": 0})
    one, other = (study.driver(shared=True, owner=name, reporter=Quiet()) for name in ("one", "other"))
    for driver in (one, other):
        driver._executor, driver._began = Workers(study.answers), 0.0
    assert one._go_on(one.book.entries["1-1"])
    assert not other._go_on(other.book.entries["1-1"])  # what it knew was of a moment ago
    sent, withdrawn = study.trials()[1:]
    assert (sent.state, sent.user_attrs["continues"]) == (TrialState.RUNNING, 0)
    assert withdrawn.state == TrialState.FAIL
    assert withdrawn.user_attrs["withdrawn"] is True
    assert other.book.entries["1-1"].running == sent.number
    assert not other.book.entries["1-1"].failed_above


def test_a_driver_waits_for_no_other_but_knows_of_it() -> None:
    study = lab(2)
    one = study.driver(shared=True, owner="one")
    assert not one.others
    number = study.ledger("other").begin({"a": 1, "b": 1}, study.problem.subject({"a": 1, "b": 1}).attributes)
    assert number is not None
    assert one.others
    one.run(Workers(study.answers))
    assert one.others
    assert one.book.counted == 1  # with the other's there are two


def test_heartbeats_of_a_dead_driver_stop_and_its_trials_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(url, heartbeat_interval=1, grace_period=1)
    study = lab(3, storage=storage)
    dead = study.ledger("dead")
    assert dead.begin({"a": 1, "b": 1}, study.problem.subject({"a": 1, "b": 1}).attributes) == 0
    alive = study.driver(shared=True, owner="alive")
    assert study.states() == {"RUNNING": 1}
    time.sleep(2.2)
    assert alive.recover() == Recovered(requeued=1)
    alive.run(Workers(study.answers))
    assert ("1-1", 0) in study.answers.trained()
    assert study.driver().book.counted == 3


# Nothing is lost in a table either


def test_jobs_name_their_trial_and_rung() -> None:
    study = lab(5, rungs=TWO)
    executor = Workers(study.answers)
    study.run(executor)
    jobs: list[Job] = executor.submitted
    numbers = {trial.number: trial for trial in study.trials()}
    for job in jobs:
        assert numbers[job.trial].user_attrs["candidate"] == job.subject.digest
    assert np.all(np.diff([job.trial for job in jobs if job.kind == "measure"]) > 0)
    assert replace(jobs[0], trial=1) != jobs[0]
