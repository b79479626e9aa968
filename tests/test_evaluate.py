"""One candidate: the cheap questions come first, and each answer is handed on before the next is asked."""

import itertools
from typing import Any

import pytest
import torch

from vnas import evaluate as module
from vnas.config import LatencyConfig, TrainingConfig, load_study
from vnas.evaluate import Candidate, evaluate, measure_net
from vnas.nets import Architecture, Stage, Stem
from vnas.profiler import Measurement, ReplayTimer, measure
from vnas.training import Data, open_data

CPU = torch.device("cpu")
QUICK = LatencyConfig(min_samples=10, min_seconds=0.0, max_seconds=0.02, threads=1)
BRIEF = TrainingConfig(epochs=1, batch_size=256, flip=False, warmup_epochs=0.0)


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(load_study("quickstart").data)


@pytest.fixture
def candidate() -> Candidate:
    architecture = Architecture(
        stem=Stem(4, kernel=3, stride=2, padding=1, series=1),
        stages=(Stage(8, stride=2, series=1),),
        in_chans=1,
        image_size=8,
        num_classes=10,
    )
    return Candidate(architecture, BRIEF.anneal)


def run(candidate: Candidate, data: Data, **changes: Any) -> tuple[Any, dict[str, Any], list[str]]:
    recorded: dict[str, Any] = {}
    order: list[str] = []

    def record(attributes: dict[str, Any]) -> None:
        recorded.update(attributes)
        order.extend(attributes)

    settings: dict[str, Any] = {"latency": QUICK, "training": BRIEF, "known_latency": None} | changes
    result = evaluate(
        candidate,
        data,
        settings["training"],
        settings["latency"],
        seed=0,
        device=CPU,
        known_latency=settings["known_latency"],
        record=record,
    )
    return result, recorded, order


def test_cheapest_question_first(candidate: Candidate, data: Data) -> None:
    result, recorded, order = run(candidate, data)
    wanted = ["digest", "macs", "latency_ms", "over_budget", "val_top1", "seconds"]
    assert [name for name in order if name in wanted] == wanted
    assert recorded["latency_ms"] == result.latency.median_ms
    assert recorded["latency_low_ms"] <= recorded["latency_ms"] <= recorded["latency_high_ms"]
    assert recorded["val_top1"] == result.training.val_top1
    assert recorded["over_budget"] is False
    assert Measurement.from_dict(recorded["latency"]) == result.latency
    assert recorded["seconds"] == result.seconds > 0


def test_what_was_answered_before_a_failure_is_kept(
    candidate: Candidate, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: dict[str, Any] = {}

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("training broke")

    monkeypatch.setattr(module, "fit", fail)
    with pytest.raises(RuntimeError, match="training broke"):
        evaluate(candidate, data, BRIEF, QUICK, seed=0, device=CPU, record=recorded.update)
    assert {"digest", "params", "latency_ms"} <= recorded.keys()
    assert "val_top1" not in recorded


def test_over_the_budget_nothing_is_trained(candidate: Candidate, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit", lambda *a, **k: pytest.fail("was trained"))
    result, recorded, _ = run(candidate, data, latency=QUICK.model_copy(update={"budget_ms": 1e-9}))
    assert result.training is None
    assert recorded["over_budget"] is True
    assert "val_top1" not in recorded


def test_a_known_latency_is_not_measured_again(
    candidate: Candidate, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = measure(lambda: None, timer=ReplayTimer(itertools.repeat(3.0)), min_seconds=0.0, max_seconds=1.0)
    monkeypatch.setattr(module, "measure", lambda *a, **k: pytest.fail("was measured"))
    result, recorded, _ = run(candidate, data, known_latency=known)
    assert result.latency is known
    assert recorded["latency_ms"] == 3.0


def test_the_schedule_trained_under_is_the_candidates_own(candidate: Candidate, data: Data) -> None:
    late = BRIEF.anneal.model_copy(update={"start": 0.5, "end": 1.0})
    result, _, _ = run(Candidate(candidate.architecture, late), data, training=BRIEF.model_copy(update={"epochs": 2}))
    first, last = result.training.curve
    assert first.slope_max < 0.2
    assert last.slope_min == 1.0


def test_layout_and_threads_reach_the_measurement(candidate: Candidate) -> None:
    net = torch.nn.Conv2d(3, 4, 3)
    config = QUICK.model_copy(update={"channels_last": True})
    measured = measure_net(net, (3, 8, 8), CPU, config)
    assert measured.layout == "channels_last"
    assert measured.environment.threads == 1
    assert measured.input_shapes == ((1, 3, 8, 8),)
