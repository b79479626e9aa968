"""The loop and its storage, with an evaluator that costs nothing."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from vnas.config import StudyConfig, load_study
from vnas.errors import MeasurementError, ResumeError, VnasError
from vnas.evaluate import Candidate, cost_attributes, latency_attributes
from vnas.nets import cost
from vnas.profiler import Measurement, ReplayTimer, capture_environment, measure
from vnas.search import driver, front, store
from vnas.training import Data, open_data


class Quiet:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[driver.TrialLine] = []
        self.notes: list[str] = []
        self.started: tuple[int, int] | None = None

    def search_started(self, done: int, total: int) -> None:
        self.started = (done, total)

    def trial_started(self, number: int, candidate: Candidate) -> None: ...

    def training(self, progress: object) -> None: ...

    def trial_finished(self, line: driver.TrialLine, done: int, total: int) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Answer:
    """What :func:`vnas.evaluate.evaluate` returns, as far as the driver looks."""

    def __init__(self, latency: Measurement, val_top1: float) -> None:
        self.latency = latency
        self.training = type("Result", (), {"val_top1": val_top1})()


def replayed(latency_ms: float) -> Measurement:
    return measure(
        lambda: None,
        device="cpu",
        timer=ReplayTimer(itertools.repeat(latency_ms)),
        min_samples=10,
        min_seconds=0.0,
        max_seconds=1.0,
    )


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


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Scripted: each entry is an exception to raise or an accuracy to return; accuracy 50 when it runs out."""
    script: list[Any] = []

    def evaluate(candidate: Candidate, *rest: Any, record: Any, **named: Any) -> Answer:
        record(candidate.attributes())
        record(cost_attributes(cost(candidate.architecture, candidate.architecture.image_size)))
        step = script.pop(0) if script else 50.0
        if isinstance(step, BaseException):
            raise step
        latency = named["known_latency"] or replayed(0.001 * candidate.architecture.widths[0])
        record(latency_attributes(latency) | {"val_top1": step, "training": {}})
        return Answer(latency, step)

    monkeypatch.setattr(driver, "evaluate", evaluate)
    return script


def new(url: str, config: StudyConfig, facts: dict[str, Any]) -> store.StudyStore:
    return store.StudyStore.create(store.open_storage(url), config, facts)


def again(url: str, config: StudyConfig, facts: dict[str, Any]) -> tuple[store.StudyStore, store.Recovered]:
    return store.StudyStore.resume(store.open_storage(url), config, facts)


CPU = torch.device("cpu")


def test_any_failure_costs_one_trial(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    evaluator += [60.0, MeasurementError("no clock"), RuntimeError("boom"), 70.0]
    opened, reporter = new(url, config, facts), Quiet()
    driver.search(opened, data, CPU, reporter)
    assert [line.state for line in reporter.lines if line.state != "duplicate"] == [
        "complete", "failed", "failed", "complete",
    ]  # fmt: skip
    reasons = [line.note for line in reporter.lines if line.state == "failed"]
    assert reasons == ["no clock", "RuntimeError: boom"]
    failed = [trial for trial in opened.study.get_trials() if "traceback" in trial.user_attrs]
    assert len(failed) == 1
    assert "raise step" in failed[0].user_attrs["traceback"]


def test_unexpected_failures_in_a_row_end_the_study(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    evaluator += [OSError("disk")] * 10
    with pytest.raises(VnasError, match=r"3 trials in a row .* OSError: disk"):
        driver.search(new(url, config, facts), data, CPU, Quiet())


def test_an_interrupted_trial_is_drawn_again_and_counts_once(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    evaluator += [60.0, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        driver.search(new(url, config, facts), data, CPU, Quiet())
    opened, recovered = again(url, config, facts)
    assert recovered == store.Recovered(finished=1, requeued=0)  # the interrupt itself queued it
    reporter = Quiet()
    driver.search(opened, data, CPU, reporter)
    assert reporter.started == (1, 4)
    trials = opened.study.get_trials()
    interrupted = next(trial for trial in trials if trial.user_attrs.get("interrupted"))
    repeated = [trial for trial in trials if trial.params == interrupted.params and trial.number > interrupted.number]
    assert repeated[0].state == TrialState.COMPLETE
    assert opened.counted == 4


def test_a_killed_trial_is_failed_and_drawn_again(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    opened = new(url, config, facts)
    killed = opened.ask()
    killed.suggest_categorical("stem.width", (4, 8, 16))
    del opened
    opened, recovered = again(url, config, facts)
    assert recovered == store.Recovered(finished=0, requeued=1)
    driver.search(opened, data, CPU, Quiet())
    trials = opened.study.get_trials()
    assert trials[0].state == TrialState.FAIL
    assert trials[1].params["stem.width"] == trials[0].params["stem.width"]
    assert opened.counted == 4


def test_a_resumed_sampler_does_not_repeat_its_draws(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    opened = new(url, config, facts)
    driver.search(opened, data, CPU, Quiet())
    before = [trial.params for trial in opened.study.get_trials()]
    opened, _ = again(url, config.model_copy(update={"trials": 8}), facts)
    driver.search(opened, data, CPU, Quiet())
    after = [trial.params for trial in opened.study.get_trials()][len(before) :]
    assert after[: len(before)] != before


def test_a_study_killed_at_birth_is_made_anew(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    storage = store.open_storage(url)
    study = optuna.create_study(storage=storage, study_name=config.name, directions=["maximize", "minimize"])
    study.set_user_attr("data", {})
    assert store.find(storage, config.name) is None
    assert store.find(storage, config.name) is None
    new(url, config, facts)
    assert store.find(storage, config.name) == config.to_toml()


def test_somebody_elses_study_is_left_alone(url: str, config: StudyConfig) -> None:
    storage = store.open_storage(url)
    optuna.create_study(storage=storage, study_name=config.name).set_user_attr("owner", "somebody")
    with pytest.raises(ResumeError, match="not one of vnas"):
        store.find(storage, config.name)


def test_other_data_is_refused(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    new(url, config, facts)
    other = facts | {"data": facts["data"] | {"fingerprint": "something else"}}
    with pytest.raises(ResumeError, match="is not what study 'tiny' began with"):
        again(url, config, other)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_every_sampler_runs_with_a_budget(
    name: str, url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    table = config.model_dump() | {"sampler": name, "trials": 30}
    table["latency"] |= {"budget_ms": 1.0}
    opened = new(url, StudyConfig.model_validate(table), facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        driver.search(opened, data, CPU, Quiet())
    assert opened.counted == 30
    assert all(trial.constraints for trial in opened.study.get_trials() if trial.state == TrialState.COMPLETE)


def known(number: int, width: int, val_top1: float, latency_ms: float, end: float = 0.5) -> store.Known:
    study = load_study("quickstart")
    base = {"stem": {"width": width}, "stages": [{"width": 8, "stride": 1}], "image_size": 16, "num_classes": 10}
    candidate = Candidate.from_attributes(
        {"architecture": base, "anneal": study.training.anneal.model_dump() | {"end": end}}
    )
    return store.Known(number, TrialState.COMPLETE, (val_top1, latency_ms), candidate.attributes())


def test_the_front_is_what_nothing_dominates() -> None:
    entries = [
        known(0, 4, 50.0, 1.0),  # fastest
        known(1, 5, 60.0, 2.0),
        known(2, 6, 55.0, 3.0),  # slower and worse than 1
        known(3, 7, 90.0, 4.0),
        known(4, 8, 90.0, 5.0),  # slower than 3, no better
    ]
    assert [net.trial for net in front.select(entries, max_nets=6)] == [0, 1, 3]


def test_a_net_under_two_schedules_stands_once_with_the_better() -> None:
    entries = [known(0, 4, 50.0, 1.0, end=0.3), known(1, 4, 60.0, 1.0, end=0.6)]
    assert [net.trial for net in front.select(entries, max_nets=6)] == [1]


def test_thinning_keeps_what_adds_most_hypervolume() -> None:
    entries = [
        known(0, 4, 50.0, 1.0),
        known(1, 5, 50.1, 1.99),  # adds a sliver beside its neighbours
        known(2, 6, 70.0, 2.0),
        known(3, 7, 90.0, 4.0),
    ]
    assert [net.trial for net in front.select(entries, max_nets=3)] == [0, 2, 3]
    assert front.select([], max_nets=3) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10)), min_size=1, max_size=8), st.integers(1, 4))
def test_thinned_fronts_are_fronts(points: list[tuple[float, float]], max_nets: int) -> None:
    entries = [known(i, 4 + i, *point) for i, point in enumerate(points)]
    nets = front.select(entries, max_nets)
    assert 1 <= len(nets) <= max_nets
    for one in nets:
        better = [
            p for p in points if p[0] >= one.val_top1 and p[1] <= one.latency_ms and p != (one.val_top1, one.latency_ms)
        ]
        assert not better
    assert np.all(np.diff([net.latency_ms for net in nets]) >= 0)
