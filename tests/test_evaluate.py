"""One candidate: what is measured and trained, the rungs of a study, and going on from a checkpoint."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas import evaluate as module
from vnas.config import LatencyConfig, RungsConfig, StudyConfig, TrainingConfig, load_study
from vnas.errors import MeasurementError, TrainingError
from vnas.evaluate import (
    Candidate,
    NetEvaluator,
    cost_attributes,
    measure_architecture,
    measure_net,
    rung_epochs,
    rungs_of,
    train,
)
from vnas.nets import Architecture, Stage, Stem, cost
from vnas.profiler import Measurement
from vnas.training import Data, open_data
from vnas.training.rungs.rung import overhead
from vnas.training.rungs.training import epochs_spent

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


@dataclass(frozen=True)
class Named:
    attributes: dict[str, Any]


def study(shares: tuple[float, ...] = (1.0,), **changes: Any) -> StudyConfig:
    training = BRIEF.model_copy(update={"epochs": changes.pop("epochs", 1)})
    config = load_study("quickstart")
    rungs = RungsConfig(shares=shares, **changes)
    return config.model_copy(update={"training": training, "latency": QUICK, "rungs": rungs})


def evaluator(config: StudyConfig, data: Data, checkpoints: Path | None = None) -> NetEvaluator:
    return NetEvaluator(config, data, CPU, 1, checkpoints)


def trained(one: NetEvaluator, candidate: Candidate, rung: int = 0) -> dict[str, Any]:
    return one.train(Named(candidate.attributes()), rung, lambda share: None)


# Measured and trained


def test_a_latency_and_what_belongs_to_it(candidate: Candidate, data: Data) -> None:
    found = evaluator(study(), data).measure(Named(candidate.attributes()))
    assert list(found) == ["latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "latency"]
    assert found["latency_low_ms"] <= found["latency_ms"] <= found["latency_high_ms"]
    whole = Measurement.from_dict(found["latency"])
    assert whole.median_ms == found["latency_ms"]
    assert whole.environment.threads == 1
    assert whole.input_shapes == ((1, 1, 8, 8),)


@pytest.mark.parametrize(("of_the_study", "of_the_machine", "used"), [(1, 2, 1), (None, 2, 2), (None, None, None)])
def test_the_threads_of_the_study_come_before_those_of_the_machine(
    of_the_study: int | None,
    of_the_machine: int | None,
    used: int | None,
    candidate: Candidate,
    data: Data,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[LatencyConfig] = []

    def measured(architecture: object, device: object, config: LatencyConfig, **named: object) -> None:
        seen.append(config)
        raise MeasurementError("enough")

    monkeypatch.setattr(module, "measure_architecture", measured)
    config = study().model_copy(update={"latency": QUICK.model_copy(update={"threads": of_the_study})})
    with pytest.raises(MeasurementError, match="enough"):
        NetEvaluator(config, data, CPU, of_the_machine, None).measure(Named(candidate.attributes()))
    assert seen[0].threads == used


def test_layout_and_threads_reach_the_measurement() -> None:
    net = torch.nn.Conv2d(3, 4, 3)
    config = QUICK.model_copy(update={"channels_last": True})
    measured = measure_net(net, (3, 8, 8), CPU, config)
    assert measured.layout == "channels_last"
    assert measured.environment.threads == 1
    assert measured.input_shapes == ((1, 3, 8, 8),)


def test_a_measurement_leaves_the_random_numbers_alone(candidate: Candidate) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    measure_architecture(candidate.architecture, CPU, QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_costs_as_values(candidate: Candidate) -> None:
    found = cost_attributes(cost(candidate.architecture, 8))
    assert list(found) == ["params", "macs", "activation_bytes", "weight_bytes", "traffic_bytes", "kernels"]
    assert all(isinstance(value, int) and value > 0 for value in found.values())


def test_a_training_is_the_same_whenever_it_is_asked_for(candidate: Candidate, data: Data) -> None:
    one, other = (trained(evaluator(study(), data), candidate) for _ in range(2))
    assert one["val_top1"] == other["val_top1"]
    assert (one["epochs"], one["epochs_spent"]) == (1, 1)
    assert one["training"]["val_top1"] == one["val_top1"]


def test_progress_ends_with_all(candidate: Candidate, data: Data) -> None:
    shares: list[float] = []
    evaluator(study(), data).train(Named(candidate.attributes()), 0, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_schedule_trained_under_is_the_candidates_own(candidate: Candidate, data: Data) -> None:
    late = BRIEF.anneal.model_copy(update={"start": 0.5, "end": 1.0})
    result = train(
        Candidate(candidate.architecture, late), data, BRIEF.model_copy(update={"epochs": 2}), seed=0, device=CPU
    )
    first, last = result.curve
    assert first.slope_max < 0.2
    assert last.slope_min == 1.0


@pytest.mark.parametrize(("job", "error"), [("measure", MeasurementError), ("train", TrainingError)])
def test_memory_that_runs_out_is_the_candidates_fault(
    job: str, error: type[Exception], candidate: Candidate, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("measure", "fit", "train_rungs"):
        monkeypatch.setattr(module, name, crowded)
    one = evaluator(study(), data)
    asked = {"measure": lambda: one.measure(Named(candidate.attributes())), "train": lambda: trained(one, candidate)}
    with pytest.raises(error, match="out of memory on cpu"):
        asked[job]()


# Rungs


@pytest.mark.parametrize(
    ("strategy", "rungs", "spent"),
    [
        # 100 epochs, a tenth and all of them, half of each a branch.
        ("continue", ((5.0, 5.0), (45.0, 45.0)), (10.0, 100.0)),
        ("branch", ((5.0, 5.0), (45.0, 50.0)), (10.0, 105.0)),
        ("restart", ((5.0, 5.0), (45.0, 50.0)), (10.0, 110.0)),
    ],
)
def test_the_rungs_of_a_study(strategy: Any, rungs: Any, spent: tuple[float, ...]) -> None:
    training = BRIEF.model_copy(update={"epochs": 100})
    config = RungsConfig(shares=(0.1, 1.0), strategy=strategy, branch_share=0.5)
    found = rungs_of(training, config)
    assert [(rung.trunk_epochs, rung.branch_epochs) for rung in found] == [pytest.approx(rung) for rung in rungs]
    assert rung_epochs(training, config) == pytest.approx(spent)


@settings(max_examples=100, deadline=None)
@given(
    shares=st.lists(st.floats(0.02, 0.98), min_size=1, max_size=4, unique=True),
    strategy=st.sampled_from(["branch", "restart", "continue"]),
    branch_share=st.floats(0.05, 1.0),
    epochs=st.integers(1, 300),
)
def test_a_candidate_is_judged_after_its_share(
    shares: list[float], strategy: Any, branch_share: float, epochs: int
) -> None:
    training = BRIEF.model_copy(update={"epochs": epochs})
    config = RungsConfig(shares=(*sorted(shares), 1.0), strategy=strategy, branch_share=branch_share)
    rungs = rungs_of(training, config)
    lengths = [epochs * share for share in config.shares]
    spent = rung_epochs(training, config)
    assert spent == epochs_spent(rungs, strategy)
    assert all(low < high for low, high in pairwise(spent))
    assert spent[0] == pytest.approx(lengths[0])
    if strategy == "continue":  # nothing is trained twice
        assert spent == pytest.approx(lengths)
    elif strategy == "restart":  # each from fresh weights
        assert spent == pytest.approx([sum(lengths[: index + 1]) for index in range(len(lengths))])
    else:  # all that a rung's branch learned is lost
        branches = [branch_share * length for length in lengths]
        assert spent == pytest.approx([length + sum(branches[:at]) for at, length in enumerate(lengths)])
    if strategy != "continue":
        assert overhead(rungs, strategy) == pytest.approx(spent[-1] / epochs)


@pytest.mark.parametrize("strategy", ["branch", "restart", "continue"])
def test_one_rung_is_the_whole_training(strategy: Any) -> None:
    assert rung_epochs(BRIEF.model_copy(update={"epochs": 7}), RungsConfig(strategy=strategy)) == (7.0,)


@pytest.mark.parametrize("strategy", ["branch", "restart", "continue"])
def test_a_candidate_goes_on_from_its_checkpoint(
    strategy: str, candidate: Candidate, data: Data, tmp_path: Path
) -> None:
    config = study((0.5, 1.0), epochs=4, strategy=strategy)
    rungs = rung_epochs(config.training, config.rungs)
    first = trained(evaluator(config, data, tmp_path), candidate)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{candidate.digest}.pt"]
    assert first["epochs"] == first["epochs_spent"] == pytest.approx(rungs[0], abs=0.2)
    second = trained(evaluator(config, data, tmp_path), candidate, 1)  # in another process, say
    assert second["epochs"] == pytest.approx(rungs[1], abs=0.4)
    assert second["epochs_spent"] == second["epochs"] - first["epochs"]
    assert not list((tmp_path / "checkpoints").iterdir())  # the last rung is over

    # Where there is no checkpoint, all of it is trained again, and comes to the same.
    anew = trained(evaluator(config, data), candidate, 1)
    assert anew["val_top1"] == second["val_top1"]
    assert anew["epochs_spent"] == anew["epochs"] == second["epochs"]
    assert second["training"]["val_top1"] == second["val_top1"]
    assert {"fused", "rung"}.isdisjoint(second["training"])


def test_a_single_rung_leaves_no_checkpoint(candidate: Candidate, data: Data, tmp_path: Path) -> None:
    trained(evaluator(study(), data, tmp_path), candidate)
    assert not list((tmp_path / "checkpoints").iterdir())
    # One that was interrupted leaves it, and goes on; one that failed does not.
    path = tmp_path / "checkpoints" / f"{candidate.digest}.pt"

    def stop(error: BaseException) -> Any:
        def fit(*arguments: object, **named: object) -> None:
            path.write_bytes(b"half way")
            raise error

        return fit

    for error, stays in ((KeyboardInterrupt(), True), (TrainingError("the loss became nan"), False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "fit", stop(error))
            with pytest.raises(type(error)):
                trained(evaluator(study(), data, tmp_path), candidate)
        assert path.exists() is stays
