"""The loop and its storage, with a problem that costs nothing; the study as a whole; the choice of the front."""

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from fake_studies import Lab, Quiet, Workers, lab
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from vnas.config import StudyConfig, load_study
from vnas.errors import MeasurementError, ResumeError, VnasError
from vnas.evaluate import Candidate
from vnas.profiler import capture_environment
from vnas.search import front, interrupts, store
from vnas.search.engine.book import Entry
from vnas.search.engine.driver import EXHAUSTED_AFTER, Driver
from vnas.search.engine.recovery import Recovered
from vnas.training import Data, open_data


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, url: str) -> BaseStorage:
    return optuna.storages.InMemoryStorage() if request.param == "memory" else store.open_storage(url)


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(load_study("quickstart").data)


@pytest.fixture
def config(tiny: Path) -> StudyConfig:
    return load_study(str(tiny))


@pytest.fixture
def facts(data: Data) -> dict[str, Any]:
    return store.facts(capture_environment(torch.device("cpu")), data)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


# The loop


def test_any_failure_costs_one_trial(storage: BaseStorage) -> None:
    study = lab(4, storage=storage)
    study.answers.trainings += [60.0, MeasurementError("no clock"), RuntimeError("boom"), 70.0]
    driver = study.run()
    lines = [line for line in study.reporter.lines if line.state != "duplicate"]
    assert [line.state for line in lines] == ["complete", "failed", "failed", "complete"]
    assert [line.note for line in lines if line.state == "failed"] == ["no clock", "RuntimeError: boom"]
    assert driver.book.counted == 4
    (failed,) = [trial for trial in study.trials() if "traceback" in trial.user_attrs]
    assert failed.user_attrs["unexpected"] is True
    assert "raise step" in failed.user_attrs["traceback"]


def test_a_measurement_that_fails_is_not_trained(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(2, storage=storage)

    def measure(subject: object) -> dict[str, Any]:
        raise MeasurementError("no clock")

    monkeypatch.setattr(study.answers, "measure", measure)
    driver = study.run()
    assert study.answers.jobs("train") == []
    assert driver.book.counted == 2  # they failed
    assert {trial.state for trial in study.trials() if "duplicate_of" not in trial.user_attrs} == {TrialState.FAIL}


def test_unexpected_failures_in_a_row_end_the_study(storage: BaseStorage) -> None:
    study = lab(20, storage=storage)
    study.answers.trainings += [60.0, OSError("disk"), 60.0, *[OSError("disk")] * 10]
    with pytest.raises(VnasError, match=r"3 trials in a row .* OSError: disk\. Completed trials are kept; --resume"):
        study.run()
    assert study.states()["COMPLETE"] - sum("duplicate_of" in t.user_attrs for t in study.finished().values()) == 2
    assert study.states()["RUNNING"] == study.states()["WAITING"] == 0


def test_an_interrupted_trial_is_drawn_again_and_counts_once(storage: BaseStorage) -> None:
    study = lab(4, storage=storage)
    study.answers.trainings += [60.0, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        study.run()
    (interrupted,) = [trial for trial in study.trials() if trial.user_attrs.get("interrupted")]
    (waiting,) = [trial for trial in study.trials() if trial.state == TrialState.WAITING]
    assert interrupted.state == TrialState.FAIL
    assert waiting.params == interrupted.params
    assert waiting.user_attrs["recovers"] == interrupted.number

    reporter = Quiet()
    driver = study.driver(reporter=reporter)
    assert driver.recover() == Recovered()  # the interrupt itself queued it
    assert driver.book.finished == 1
    driver.run(Workers(study.answers))
    assert reporter.started == (1, 4)
    assert study.trials()[waiting.number].state == TrialState.COMPLETE
    assert driver.book.counted == 4
    assert set(study.answers.trained().values()) == {1}


def killed_in(study: Lab, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends in the first job of a kind as if it were killed: nothing is cleaned up."""

    class Killed(BaseException):
        pass

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(study.answers, kind, die)
        patch.setattr(Driver, "_put_back", lambda driver: None)
        with pytest.raises(Killed):
            study.run()


def test_a_killed_trial_is_failed_and_drawn_again(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(4, storage=storage)
    killed_in(study, "measure", monkeypatch)
    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]
    driver = Driver(study.problem, study.ledger(), study.rules, Quiet())
    assert driver.recover() == Recovered(requeued=1)
    assert driver.book.finished == 0
    driver.run(Workers(study.answers))
    first, again = study.trials()[:2]
    assert first.state == TrialState.FAIL
    assert (again.state, again.params) == (TrialState.COMPLETE, first.params)
    assert driver.book.counted == 4


def test_a_killed_trial_keeps_its_latency(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(4, storage=storage)
    killed_in(study, "train", monkeypatch)
    (measured,) = study.answers.jobs("measure")
    study.run()
    assert study.answers.jobs("measure").count(measured) == 1
    assert study.trials()[1].user_attrs["latency_ms"] == study.trials()[0].user_attrs["latency_ms"]


def test_a_trial_killed_after_its_last_answer_is_complete(storage: BaseStorage) -> None:
    study = lab(4, storage=storage, budget_ms=3.0)
    ledger, subject = study.ledger(), study.problem.subject({"a": 1, "b": 0})
    number = ledger.begin({"a": 1, "b": 0}, subject.attributes)
    assert number is not None
    rungs = [{"rung": 0, "val_top1": 75.0, "epochs": 1.0, "epochs_spent": 1.0}]
    ledger.record(number, {"latency_ms": 2.0, "val_top1": 75.0, "rungs": rungs})
    driver = Driver(study.problem, study.ledger(), study.rules, Quiet())
    assert driver.recover() == Recovered(completed=1)
    trial = study.trials()[1]
    assert trial.values == [75.0, 2.0]
    # As on every other trial of a study with a budget, or a sampler could not compare them.
    assert trial.constraints == {"latency_over_budget_ms": -1.0}
    driver.run(Workers(study.answers))
    assert (subject.digest, 0) not in study.answers.trained()
    assert driver.book.counted == 4


def test_a_queued_draw_survives_a_second_kill(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lab(3, storage=storage)
    killed_in(study, "measure", monkeypatch)
    killed_in(study, "measure", monkeypatch)  # takes the queued draw, and is killed again
    driver = Driver(study.problem, study.ledger(), study.rules, Quiet())
    assert driver.recover() == Recovered(requeued=1)
    first, second, third = study.trials()
    assert first.params == second.params == third.params
    assert third.state == TrialState.WAITING


def test_a_resumed_sampler_does_not_repeat_its_draws(storage: BaseStorage) -> None:
    study = lab(6, storage=storage, options=(40, 40))
    study.run()
    before = [trial.params for trial in study.trials()]
    study.run(limits=study.rules.limits.__class__(12, None, None, 0.5))
    after = [trial.params for trial in study.trials()][len(before) :]
    assert after[: len(before)] != before


def test_a_signal_in_the_middle_of_telling_waits_for_its_end(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lab(4, storage=storage)
    tell = study.storage.set_trial_state_values

    def told(trial_id: int, state: TrialState, values: Any = None) -> bool:
        if state.is_finished():
            os.kill(os.getpid(), signal.SIGINT)
        found = tell(trial_id, state, values)
        if state.is_finished():
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(study.storage, "set_trial_state_values", told)
    with interrupts.installed(), pytest.raises(KeyboardInterrupt):
        study.run()
    monkeypatch.undo()
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]
    driver = study.driver()
    assert (driver.book.finished, driver.recover()) == (1, Recovered())


@pytest.mark.parametrize("calls", range(1, 4))
def test_a_signal_in_the_middle_of_beginning_leaves_nothing_at_work(
    calls: int, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lab(4, storage=storage)
    tell, begun = study.storage.set_trial_state_values, []

    def told(trial_id: int, state: TrialState, values: Any = None) -> bool:
        if state == TrialState.RUNNING:
            begun.append(trial_id)
            if len(begun) == calls:
                os.kill(os.getpid(), signal.SIGINT)
        return tell(trial_id, state, values)

    monkeypatch.setattr(study.storage, "set_trial_state_values", told)
    with interrupts.installed(), pytest.raises(KeyboardInterrupt):
        study.run()
    monkeypatch.undo()
    assert study.states()["RUNNING"] == 0
    assert study.states()["WAITING"] == 1
    assert study.run().book.counted == 4


def test_failures_that_nobody_expected_are_tried_again_after_a_resume(storage: BaseStorage) -> None:
    study = lab(4, storage=storage)
    study.answers.trainings += [RuntimeError("the card fell off the bus"), MeasurementError("cannot be timed")]
    assert study.run().book.counted == 4
    (broken,) = [trial for trial in study.trials() if trial.user_attrs.get("unexpected")]
    driver = study.driver()
    assert driver.book.counted == 3
    study.ledger().queue(broken.params, {})
    driver.run(Workers(study.answers))
    assert driver.book.counted == 4
    assert study.answers.trained()[broken.user_attrs["candidate"], 0] == 1


def test_a_stuck_sampler_gives_way_to_random_draws(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, *arguments: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, *arguments: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return distribution.choices[0]

    monkeypatch.setattr("vnas.search.sampling.suggester.make", lambda *arguments, **named: Stubborn())
    study = lab(4, storage=storage)
    assert study.run().book.counted == 4
    assert len(study.trials()) < 4 + 4 * EXHAUSTED_AFTER


def test_an_exhausted_space_ends_the_search_and_hardly_grows_on_resume(storage: BaseStorage) -> None:
    study = lab(4, storage=storage, options=(2, 1))
    study.problem.choices = {"a": (0, 1), "b": (0, 0)}
    assert study.run().book.counted == 2
    assert study.reporter.notes == ["the space seems exhausted after 2 candidates: draws only repeat them"]
    before = len(study.trials())
    study.run()
    assert len(study.trials()) == before


def test_a_space_of_holes_is_exhausted_too() -> None:
    study = lab(30, options=(3, 3), holes=lambda a, b: False)
    study.problem.size = 1000  # an upper bound that draws never come to
    assert study.run().book.counted == 9
    assert study.reporter.notes == ["the space seems exhausted after 9 candidates: draws only repeat them"]
    repeated = [trial for trial in study.trials() if "duplicate_of" in trial.user_attrs]
    assert len(repeated) >= EXHAUSTED_AFTER
    before = len(study.trials())
    study.run()
    assert len(study.trials()) == before


@pytest.mark.parametrize("name", ["local", "tpe", "gp", "nsga2", "random", "grid"])
def test_every_sampler_runs_with_a_budget(name: str) -> None:
    study = lab(16, sampler=name, budget_ms=4.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        assert study.run().book.counted == 16
    for trial in study.finished().values():
        assert list(trial.constraints) == ["latency_over_budget_ms"]
        assert (trial.constraints["latency_over_budget_ms"] > 0) == (trial.user_attrs.get("gate") == "budget")
    assert set(study.answers.trained().values()) == {1}


# The study as a whole


def new(url: str, config: StudyConfig, facts: dict[str, Any]) -> optuna.Study:
    study = store.create(store.open_storage(url), config, facts, own=True)
    assert study is not None
    return study


def again(url: str, config: StudyConfig, facts: dict[str, Any]) -> tuple[optuna.Study, tuple[str, ...]]:
    return store.resume(store.open_storage(url), config, facts)


@pytest.mark.parametrize("got_to", ["nothing", "vnas_version"])
def test_a_study_killed_at_birth_is_made_anew(
    got_to: str, url: str, config: StudyConfig, facts: dict[str, Any]
) -> None:
    storage = store.open_storage(url)
    study = optuna.create_study(storage=storage, study_name=config.name, directions=["maximize", "minimize"])
    if got_to != "nothing":
        study.set_user_attr(got_to, "0.1.0")
    assert store.stored(storage) == {}
    new(url, config, facts)
    assert store.stored(storage) == {config.name: config.to_toml()}


def test_other_studies_of_a_storage_are_left_alone(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    storage = store.open_storage(url)
    optuna.create_study(storage=storage, study_name="a colleague's, still empty")
    optuna.create_study(storage=storage, study_name=config.name)
    assert store.stored(storage) == {}
    with pytest.raises(ResumeError, match="already holds a study 'tiny'"):
        store.create(storage, config, facts, own=False)
    assert len(optuna.get_all_study_names(storage)) == 2


def test_a_study_that_another_driver_begins_is_joined(
    url: str, config: StudyConfig, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store.open_storage(url)
    assert store.create(storage, config, facts, own=False, shared=True) is not None
    assert store.create(storage, config, facts, own=False, shared=True) is None
    study, _ = again(url, config, facts)
    assert study.study_name == config.name
    # One that its driver left while it was being made is made anew once it had time enough.
    monkeypatch.setattr(store, "BEGINNING_SECONDS", 1)
    study.set_user_attr("vnas_version", "0.1.0")
    storage.delete_study(study._study_id)
    left = optuna.create_study(storage=storage, study_name=config.name, directions=["maximize", "minimize"])
    left.set_user_attr("vnas_version", "0.1.0")
    assert store.create(storage, config, facts, own=False, shared=True) is not None


@pytest.mark.parametrize(
    ("url", "shareable"),
    [("sqlite:////tmp/study.db", False), ("postgresql://host/db", True), ("mysql+pymysql://host/db", True)],
)
def test_a_file_is_one_machines(url: str, shareable: bool) -> None:
    assert store.shareable(url) is shareable


def test_energy_is_a_third_objective(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    study = new(url, config.model_copy(update={"energy": True}), facts)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        assert study.metric_names == ["val_top1", "latency_ms", "energy_mj"]


def test_other_threads_are_refused_and_other_versions_noted(
    url: str, config: StudyConfig, facts: dict[str, Any]
) -> None:
    free = config.model_copy(update={"latency": config.latency.model_copy(update={"threads": None})})
    new(url, free, facts)
    environment = facts["environment"] | {"torch": "9.9.9"}
    _, changes = again(url, free, facts | {"environment": environment})
    assert changes == (f"torch {facts['environment']['torch']} -> 9.9.9",)
    environment = facts["environment"] | {"threads": 64}
    with pytest.raises(ResumeError, match=r"here torch has 64\. Go on with OMP_NUM_THREADS="):
        again(url, free, facts | {"environment": environment})


def test_other_data_is_refused(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    new(url, config, facts)
    other = facts | {"data": facts["data"] | {"fingerprint": "something else"}}
    with pytest.raises(ResumeError, match="is not what study 'tiny' began with"):
        again(url, config, other)


# The choice of the front


def judged(number: int, width: int, val_top1: float, latency_ms: float, end: float = 0.5) -> Entry:
    study = load_study("quickstart")
    base = {"stem": {"width": width}, "stages": [{"width": 8, "stride": 1}], "image_size": 16, "num_classes": 10}
    candidate = Candidate.from_attributes(
        {"architecture": base, "anneal": study.training.anneal.model_dump() | {"end": end}}
    )
    attributes = {**candidate.attributes(), "latency_ms": latency_ms}
    return Entry(number, {}, attributes, [{"rung": 0, "val_top1": val_top1}], "judged")


def test_the_front_is_what_nothing_dominates() -> None:
    entries = [
        judged(0, 4, 50.0, 1.0),  # fastest
        judged(1, 5, 60.0, 2.0),
        judged(2, 6, 55.0, 3.0),  # slower and worse than 1
        judged(3, 7, 90.0, 4.0),
        judged(4, 8, 90.0, 5.0),  # slower than 3, no better
    ]
    assert [net.trial for net in front.select(entries, max_nets=6)] == [0, 1, 3]
    assert [net.trial for net in front.select(entries, max_nets=6, budget_ms=2.0)] == [0, 1]


def test_a_net_under_two_schedules_stands_once_with_the_better() -> None:
    entries = [judged(0, 4, 50.0, 1.0, end=0.3), judged(1, 4, 60.0, 1.0, end=0.6)]
    assert [net.trial for net in front.select(entries, max_nets=6)] == [1]


def test_a_net_stands_with_what_its_last_rung_said() -> None:
    one, other = judged(0, 4, 90.0, 1.0), judged(1, 5, 60.0, 2.0)
    one.rungs.append({"rung": 1, "val_top1": 50.0})
    assert [net.val_top1 for net in front.select([one, other], max_nets=6)] == [50.0, 60.0]


def test_thinning_keeps_what_adds_most_hypervolume() -> None:
    entries = [
        judged(0, 4, 50.0, 1.0),
        judged(1, 5, 50.1, 1.99),  # adds a sliver beside its neighbours
        judged(2, 6, 70.0, 2.0),
        judged(3, 7, 90.0, 4.0),
    ]
    assert [net.trial for net in front.select(entries, max_nets=3)] == [0, 2, 3]
    assert front.select([], max_nets=3) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10)), min_size=1, max_size=8), st.integers(1, 4))
def test_thinned_fronts_are_fronts(points: list[tuple[float, float]], max_nets: int) -> None:
    entries = [judged(i, 4 + i, *point) for i, point in enumerate(points)]
    nets = front.select(entries, max_nets)
    assert 1 <= len(nets) <= max_nets
    for one in nets:
        better = [
            p for p in points if p[0] >= one.val_top1 and p[1] <= one.latency_ms and p != (one.val_top1, one.latency_ms)
        ]
        assert not better
    assert np.all(np.diff([net.latency_ms for net in nets]) >= 0)
