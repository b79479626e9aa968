import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import training_nets
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.config import Anneal, DataConfig, TrainingConfig
from vnas.errors import ArchitectureError, ConfigError, ResumeError
from vnas.training import Checkpoint, Data, Progress, Rung, RungResult, fit, open_data, slopes, train_rungs
from vnas.training.rungs.training import Strategy, epochs_spent, overhead
from vnas.training.schedule import Complete, Trunk
from vnas.training.seeding import random_state

CPU = torch.device("cpu")
TINY = replace(training_nets.TINY, dropout=0.2)
# Five steps an epoch; everything that has a state of its own.
FULL = TrainingConfig(
    lr=0.002,
    batch_size=275,
    crop_padding=1,
    random_erasing=0.3,
    mixup=0.3,
    cutmix=1.0,
    ema_decay=0.8,
    merge=True,
    warmup_epochs=0.0,
    anneal=Anneal(end=0.5),
)
RUNGS = (Rung(0.4, 0.6), Rung(0.8, 1.0))
STRATEGIES: tuple[Strategy, ...] = ("branch", "restart", "continue")


class StoppedError(Exception):
    pass


def climb(
    data: Data, rungs: tuple[Rung, ...] = RUNGS, config: TrainingConfig = FULL, **options: object
) -> list[RungResult]:
    return list(train_rungs(TINY, data, config, rungs, seed=3, device=CPU, **options))  # type: ignore[arg-type]


def assert_same(one: RungResult, other: RungResult) -> None:
    assert replace(one, seconds=0.0, rung=0, epochs=0.0, steps=0) == replace(
        other, seconds=0.0, rung=0, epochs=0.0, steps=0
    )
    assert one.fused is not None
    assert other.fused is not None
    weights = other.fused.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.fused.state_dict().items())


@pytest.fixture(scope="module")
def expected(digits: Data) -> dict[Strategy, list[RungResult]]:
    """Of candidates that were never stopped."""
    return {strategy: climb(digits, strategy=strategy) for strategy in STRATEGIES}


def test_what_each_rung_costs() -> None:
    """Trunks of 3 and 3 + 5 epochs, branches of 1 and 2: by hand."""
    rungs = (Rung(3.0, 1.0), Rung(5.0, 2.0))
    assert epochs_spent(rungs, "branch") == (4.0, 11.0)
    assert epochs_spent(rungs, "continue") == (4.0, 11.0)
    assert epochs_spent(rungs, "restart") == (4.0, 14.0)
    assert overhead(rungs, "branch") == 11.0 / 10.0
    assert overhead(rungs, "restart") == 14.0 / 10.0
    assert overhead(rungs[:1]) == 1.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 100)), min_size=1, max_size=6).map(
        lambda parts: tuple(Rung(*part) for part in parts)
    )
)
def test_a_branch_costs_more_than_nothing_and_no_more_than_a_restart(rungs: tuple[Rung, ...]) -> None:
    branch, restart = epochs_spent(rungs), epochs_spent(rungs, "restart")
    assert all(later > earlier for earlier, later in pairwise((0.0, *branch)))
    assert all(one <= other * (1 + 1e-12) for one, other in zip(branch, restart, strict=True))
    assert overhead(rungs) >= 1 - 1e-12
    for length in range(1, len(rungs)):
        assert epochs_spent(rungs[:length]) == branch[:length]


ANNEALS = st.builds(
    lambda shape, start, length, steps, stagger, order: Anneal(
        shape=shape,
        start=start * (1 - stagger),
        end=min(1 - stagger, start * (1 - stagger) + length),
        steps=steps,
        stagger=stagger,
        order=order,
    ),
    st.sampled_from(["linear", "cosine", "step"]),
    st.floats(0, 0.9),
    st.floats(0.05, 1),
    st.integers(1, 7),
    st.floats(0, 0.9),
    st.sampled_from(["shallow_first", "deep_first"]),
)


@settings(max_examples=300, deadline=None)
@given(ANNEALS, st.floats(0, 1, exclude_max=True), st.integers(1, 60), st.integers(1, 6))
def test_lambda_is_exactly_one_at_the_end_of_every_anneal(anneal: Anneal, slope: float, steps: int, pairs: int) -> None:
    schedule = Complete(TrainingConfig(anneal=anneal), 7, steps, slope)
    seen = [schedule.slopes(step, pairs) for step in range(steps)]
    assert seen[-1] == (1.0,) * pairs
    assert all(slope <= value <= 1.0 for lambdas in seen for value in lambdas)
    for pair in range(pairs):
        assert all(earlier[pair] <= later[pair] for earlier, later in pairwise(seen))
    if slope == 0.0:
        assert seen == [slopes(anneal, step, steps, pairs) for step in range(steps)]


def test_a_trunks_rate_rises_and_stays() -> None:
    trunk = Trunk(0.4, 100, warmup=3, slope=0.25)
    assert [trunk.rate(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert trunk.slopes(50, 3) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lambda_and_the_rate_from_rung_to_rung(digits: Data, strategy: Strategy) -> None:
    told: list[Progress] = []
    config = FULL.model_copy(update={"lr": 0.4, "min_lr": 0.1, "warmup_epochs": 3.0})
    results = climb(digits, config=config, strategy=strategy, trunk_slope=0.2, progress=told.append)
    parts = [[now for now in told if now.steps == steps] for steps in dict.fromkeys(now.steps for now in told)]
    # Trunks of 0.4 x 5 = 2 and 0.8 x 5 = 4 more steps, branches of 3 and 5.
    lengths = {"branch": [2, 3, 6, 5], "restart": [5, 11], "continue": [2, 3, 4, 5]}[strategy]
    taken = {"branch": [2, 3, 4, 5], "restart": [5, 11], "continue": [2, 3, 4, 5]}[strategy]
    assert [part[0].steps for part in parts] == lengths
    assert [len(part) for part in parts] == taken
    ends = parts if strategy == "restart" else parts[1::2]
    for part in ends:
        assert part[-1].slope_min == 1.0
        assert part[-1].lr == pytest.approx(0.1)
    if strategy == "restart":
        assert [part[0].slope_min for part in parts] == [0.0, 0.0]
        assert [part[0].lr for part in parts] == pytest.approx([0.4 / 3, 0.4 / 6])
    else:
        trunks = parts[::2]
        assert {(now.slope_min, now.slope_max) for part in trunks for now in part} == {(0.2, 0.2)}
        # A warm-up of 15 steps has no more than half of the first trunk.
        assert [[now.lr for now in part] for part in trunks] == [[0.2, 0.4], [0.4] * 4]
        assert [part[0].lr for part in ends] == [0.4, 0.4]
        assert [part[0].slope_min for part in ends] == [0.2, 0.2]
    assert [result.steps for result in results] == {"restart": [5, 16]}.get(strategy, [5, 14])
    assert [result.epochs for result in results] == pytest.approx(
        [1.0, 3.2] if strategy == "restart" else list(epochs_spent(RUNGS, strategy))
    )
    assert 0 < results[0].seconds < results[1].seconds


def test_a_branch_leaves_the_trunk_as_it_was(digits: Data, expected: dict[Strategy, list[RungResult]]) -> None:
    """The second rung is the one that a trunk of the same length without a first rung has."""
    with_branch, without = expected["branch"][1], climb(digits, (Rung(1.2, 1.0),))[0]
    assert_same(with_branch, without)
    assert (with_branch.steps, without.steps) == (14, 11)


def test_a_branch_from_fresh_weights_is_a_whole_run(digits: Data) -> None:
    config = FULL.model_copy(update={"warmup_epochs": 0.5, "epochs": 2})
    whole = fit(TINY, digits, config, seed=3, device=CPU)
    for rungs, strategy in (((Rung(0.0, 2.0),), "branch"), ((Rung(0.0, 1.0), Rung(0.8, 1.2)), "restart")):
        result = climb(digits, rungs, config, strategy=strategy)[-1]
        assert result.val_top1 == whole.val_top1
        assert result.val_top1_training_form == whole.val_top1_training_form
        assert result.train_loss == whole.train_loss
        assert result.fused is not None
        assert whole.fused is not None
        weights = whole.fused.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in result.fused.state_dict().items())


def test_continuing_goes_on_from_the_annealed_net(digits: Data) -> None:
    """The one step of the second rung is taken on what the first has learnt; a trunk of no steps has learnt nothing."""
    fast = FULL.model_copy(update={"lr": 0.05, "min_lr": 0.05, "ema_decay": None})
    for strategy, learns in (("continue", True), ("branch", False)):
        told: list[Progress] = []
        results = climb(digits, (Rung(0.0, 3.0), Rung(0.0, 0.2)), fast, strategy=strategy, progress=told.append)
        last = told[-1]
        assert (last.step, last.steps, last.slope_min) == (1, 1, 1.0)
        first = told[0].loss
        assert (last.loss < first - 0.02) == learns
        assert results[1].steps == 16


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_candidate_that_was_stopped_goes_on_to_the_same_results(
    digits: Data, tmp_path: Path, expected: dict[Strategy, list[RungResult]], strategy: Strategy
) -> None:
    steps = {"restart": 16}.get(strategy, 14)
    # In both trunks and both branches (of 2, 3, 4 and 5 steps); a restarted candidate has runs of 5 and 11.
    for stop in (2, 4, 7, 9, 14) if strategy == "branch" else (4, 9):
        checkpoint, looks = Checkpoint(tmp_path / f"{stop}.pt", 0.0), [0]

        def progress(now: Progress, looks: list[int] = looks, stop: int = stop) -> None:
            looks[0] += 1
            if looks[0] == stop:
                raise StoppedError

        with pytest.raises(StoppedError):
            climb(digits, strategy=strategy, checkpoint=checkpoint, progress=progress)
        told: list[Progress] = []
        results = climb(digits, strategy=strategy, checkpoint=checkpoint, progress=told.append)
        assert len(told) == steps - (stop - 1)
        for result, other in zip(results, expected[strategy], strict=True):
            assert_same(result, other)
            assert (result.rung, result.steps, result.epochs) == (other.rung, other.steps, other.epochs)
        assert results[0].seconds < results[1].seconds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_candidate_is_kept_at_each_rung_and_more_rungs_may_follow(
    digits: Data, tmp_path: Path, expected: dict[Strategy, list[RungResult]], strategy: Strategy
) -> None:
    checkpoint = Checkpoint(tmp_path / "candidate.pt", 1e9)
    first = climb(digits, RUNGS[:1], strategy=strategy, checkpoint=checkpoint)
    content = torch.load(checkpoint.path, weights_only=True)
    content["state"]["seconds"] += 1000.0  # as if the first rung's branch had taken long
    torch.save(content, checkpoint.path)
    told: list[Progress] = []
    results = climb(digits, strategy=strategy, checkpoint=checkpoint, progress=told.append)
    assert len(told) == {"restart": 11}.get(strategy, 9)
    assert results[0] == first[0]
    assert 1000.0 < results[1].seconds < 2000.0
    assert_same(results[0], first[0])
    assert_same(results[1], expected[strategy][1])
    told.clear()
    again = climb(digits, strategy=strategy, checkpoint=checkpoint, progress=told.append)
    assert (again, told) == (results, [])
    assert again[1].fused is not None
    assert not again[1].fused.training


def test_a_rung_that_is_not_asked_for_is_not_trained_for(digits: Data) -> None:
    told: list[Progress] = []
    results = train_rungs(TINY, digits, FULL, RUNGS, seed=3, device=CPU, progress=told.append)
    assert told == []
    next(results)
    assert len(told) == 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_callers_random_numbers_are_left_alone_between_rungs(
    digits: Data, expected: dict[Strategy, list[RungResult]], strategy: Strategy
) -> None:
    states = [random_state()["torch"]]
    found = []
    for result in train_rungs(TINY, digits, FULL, RUNGS, seed=3, device=CPU, strategy=strategy):
        states.append(random_state()["torch"])
        assert torch.equal(states[-1], states[-2])
        torch.rand(7)
        states.append(random_state()["torch"])
        found.append(result)
    for result, other in zip(found, expected[strategy], strict=True):
        assert_same(result, other)


def test_the_fused_net_was_judged_after_lambda_came_to_one(digits: Data) -> None:
    results = climb(digits, (Rung(1.0, 1.0), Rung(3.0, 1.0)), TrainingConfig(batch_size=64, flip=False))
    assert all(result.val_top1 == pytest.approx(result.val_top1_training_form, abs=1.4) for result in results)
    assert results[1].val_top1 > results[0].val_top1 > 15
    assert results[1].train_loss < results[0].train_loss


def test_another_candidate_is_refused_by_name(digits: Data, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "candidate.pt", 0.0)
    climb(digits, RUNGS[:1], checkpoint=checkpoint)
    other = FULL.model_copy(update={"lr": 1e-3})
    with pytest.raises(ResumeError, match=r"training.lr was 0.002 and is 0.001"):
        climb(digits, config=other, checkpoint=checkpoint)
    with pytest.raises(ResumeError, match="strategy was 'branch' and is 'restart'"):
        climb(digits, strategy="restart", checkpoint=checkpoint)
    with pytest.raises(ResumeError, match=r"rung 0 was .*0\.4.* and is .*0\.5.*; rungs that were begun stay"):
        climb(digits, (Rung(0.5, 0.6),), checkpoint=checkpoint)
    climb(digits, RUNGS[:1], FULL.model_copy(update={"epochs": 99}), checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Rung(-1.0, 1.0), "trunk_epochs = -1.0"),
        (lambda: Rung(1.0, 0.0), "the branch must be longer"),
        (lambda: Rung(math.nan, 1.0), "trunk_epochs = nan"),
        (lambda: Rung(1.0, math.inf), "branch_epochs = inf"),
    ],
)
def test_a_rung_that_cannot_be(act: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        act()


def test_what_cannot_be_trained_is_said_before_anything_is(digits: Data) -> None:
    with pytest.raises(ConfigError, match="no rungs"):
        train_rungs(TINY, digits, FULL, (), seed=0, device=CPU)
    with pytest.raises(ConfigError, match="'tree' is not known; write one of branch, restart, continue"):
        train_rungs(TINY, digits, FULL, RUNGS, seed=0, device=CPU, strategy="tree")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"trunk_slope = 1\.0; .* below 1"):
        train_rungs(TINY, digits, FULL, RUNGS, seed=0, device=CPU, trunk_slope=1.0)
    with pytest.raises(ArchitectureError, match="num_classes = 7"):
        train_rungs(replace(TINY, num_classes=7), digits, FULL, RUNGS, seed=0, device=CPU)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_streamed_trunk_is_left_between_epochs(strategy: Strategy) -> None:
    data = open_data(DataConfig(pipeline="streaming", workers=0))
    config = TrainingConfig(batch_size=275, warmup_epochs=0.0)
    if strategy != "restart":
        with pytest.raises(ConfigError, match=r"left between two epochs only; the rungs have parts of \[0.4, 0.8"):
            climb(data, RUNGS, config, strategy=strategy)
    rungs = (Rung(1.0, 1.0), Rung(1.0, 1.0))
    results = climb(data, rungs, config, strategy=strategy)
    assert [result.epochs for result in results] == list(epochs_spent(rungs, strategy))
    if strategy == "branch":
        assert_same(results[1], climb(data, (Rung(2.0, 1.0),), config)[0])
