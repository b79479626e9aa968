"""The loop and its storage, with an evaluator that costs nothing."""

import itertools
import os
import signal
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
from vnas.search import driver, front, interrupts, store
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
    return store.StudyStore.create(store.open_storage(url), config, facts, own=True)


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


def measured_and_killed(
    url: str, config: StudyConfig, facts: dict[str, Any]
) -> tuple[store.StudyStore, optuna.Trial, Candidate]:
    """A study whose one trial was drawn and measured, at 2 ms, when its run ended."""
    opened = new(url, config, facts)
    trial = opened.ask()
    candidate = driver.suggest(trial, config.space, in_chans=1, num_classes=10, anneal=config.training.anneal)
    opened.record(trial, candidate.attributes() | latency_attributes(replayed(2.0)))
    return opened, trial, candidate


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
        store.StudyStore.create(storage, config, facts, own=False)
    assert len(optuna.get_all_study_names(storage)) == 2


def test_a_trial_killed_after_its_last_answer_is_complete(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    opened, trial, candidate = measured_and_killed(url, config, facts)
    opened.record(trial, {"val_top1": 75.0, "training": {}})
    budget = config.model_copy(update={"latency": config.latency.model_copy(update={"budget_ms": 3.0})})
    opened.study.set_user_attr("study", budget.to_toml())
    opened, recovered = again(url, budget, facts)
    assert recovered == store.Recovered(finished=1, completed=1)
    assert opened.study.get_trials()[0].values == [75.0, 2.0]
    # As on every other trial of a study with a budget, or a sampler could not compare them.
    assert opened.study.get_trials()[0].constraints == {"latency_over_budget_ms": -1.0}
    assert candidate.digest in opened.known


def test_a_killed_trial_keeps_its_latency(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    _, _, candidate = measured_and_killed(url, config, facts)
    opened, _ = again(url, config, facts)
    latency = opened.latency_of(candidate.architecture.digest)
    assert latency is not None
    assert latency.median_ms == 2.0


def test_a_queued_draw_survives_a_second_kill(url: str, config: StudyConfig, facts: dict[str, Any]) -> None:
    opened = new(url, config, facts)
    opened.ask().suggest_categorical("stem.width", (4, 8, 16))
    opened, first = again(url, config, facts)
    drawn = opened.study.get_trials()[0].params
    opened.ask()  # takes the queued draw, and is killed before it suggests anything
    opened, second = again(url, config, facts)
    assert (first.requeued, second.requeued) == (1, 1)
    assert opened.ask().suggest_categorical("stem.width", (4, 8, 16)) == drawn["stem.width"]


def test_a_signal_in_the_middle_of_telling_waits_for_its_end(
    url: str,
    config: StudyConfig,
    facts: dict[str, Any],
    data: Data,
    evaluator: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = new(url, config, facts)
    tell = opened.study.tell

    def told(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        frozen = tell(*arguments, **named)
        os.kill(os.getpid(), signal.SIGINT)
        return frozen

    monkeypatch.setattr(opened.study, "tell", told)
    with interrupts.installed(), pytest.raises(KeyboardInterrupt):
        driver.search(opened, data, CPU, Quiet())
    trials = opened.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE]
    assert again(url, config, facts)[1] == store.Recovered(finished=1)


def test_failures_that_nobody_expected_are_tried_again_after_a_resume(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    evaluator += [RuntimeError("the card fell off the bus"), MeasurementError("this net cannot be timed")]
    driver.search(new(url, config, facts), data, CPU, Quiet())
    opened, _ = again(url, config, facts)
    assert opened.counted == 3
    driver.search(opened, data, CPU, Quiet())
    assert opened.counted == 4


def test_a_stuck_sampler_gives_way_to_random_draws(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    class Stubborn(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, *arguments: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, *arguments: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return distribution.choices[0]

    opened = new(url, config, facts)
    opened.study.sampler = Stubborn()
    driver.search(opened, data, CPU, Quiet())
    assert opened.counted == 4
    assert len(opened.study.get_trials()) < 4 + 4 * driver.EXHAUSTED_AFTER


def test_an_exhausted_space_ends_the_search_and_hardly_grows_on_resume(
    url: str, config: StudyConfig, facts: dict[str, Any], data: Data, evaluator: list[Any]
) -> None:
    table = config.model_dump()
    table["space"] |= {
        "anneal": {"end": (0.5,)},
        "stem": {"kernel": (3,), "stride": (2,), "width": (4, 8), "series": (0,)},
    }
    table["space"]["stages"] = {"count": (1,), "width": (8,), "stride": (1,), "series": (0,), "residual": ("none",)}
    small = StudyConfig.model_validate(table)
    opened, reporter = new(url, small, facts), Quiet()
    driver.search(opened, data, CPU, reporter)
    assert opened.counted == 2
    assert reporter.notes == ["the space seems exhausted after 2 candidates: draws only repeat them"]
    before = len(opened.study.get_trials())
    opened, _ = again(url, small, facts)
    driver.search(opened, data, CPU, Quiet())
    assert len(opened.study.get_trials()) == before


def test_other_threads_are_refused_and_other_versions_noted(
    url: str, config: StudyConfig, facts: dict[str, Any]
) -> None:
    free = config.model_copy(update={"latency": config.latency.model_copy(update={"threads": None})})
    new(url, free, facts)
    environment = facts["environment"] | {"torch": "9.9.9"}
    _, recovered = again(url, free, facts | {"environment": environment})
    assert recovered.changes == (f"torch {facts['environment']['torch']} -> 9.9.9",)
    environment = facts["environment"] | {"threads": 64}
    with pytest.raises(ResumeError, match=r"here torch has 64\. Go on with OMP_NUM_THREADS="):
        again(url, free, facts | {"environment": environment})


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
