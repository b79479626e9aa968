"""The benchmarks of the search: baselines, curves, plans and tables on a few dozen made-up nets."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search_scale, search_tabular
from benchmarks.search_analytic import NAMES, AnalyticEvaluator, AnalyticProblem
from benchmarks.search_baselines import SAMPLERS, _area, _front, forty_lines, optuna_curve
from benchmarks.search_curves import Curve, Step, searched
from benchmarks.search_scale import Outcome, Stopwatch, Task, Throughput
from benchmarks.search_tabular import ANYTIME, AS_IT_IS, DEFAULT, METHODS, OURS, Answers, Plan, cell
from benchmarks.search_variants import VARIANTS
from vnas.pareto import hypervolume, non_dominated
from vnas.search.tabular.table import Table, load

OPERATIONS = ("conv", "pool", "skip")
TOML = """\
csv = "nets.csv"
choices = ["op0", "op1", "op2"]
latency_ms = "latency"
seconds = "seconds"

[[rungs]]
epochs = 2
accuracy = "early"

[[rungs]]
epochs = 20
accuracy = ["late_0", "late_1"]

[reference]
error = 100.0
latency_ms = 10.0
"""


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 27 nets."""
    random = np.random.default_rng(0)
    lines = ["op0,op1,op2,early,late_0,late_1,latency,seconds"]
    for place, ops in enumerate(itertools.product(OPERATIONS, repeat=3)):
        true = 20.0 + 2.0 * place
        early, first, second = true - 10.0 + random.normal(0, 1, 3) + (0, 10, 10)
        latency = 1.0 + 0.3 * place + random.uniform(0, 0.5)
        lines.append(f"{','.join(ops)},{early},{first},{'' if place % 2 else second},{latency},{100 + place}")
    folder = tmp_path_factory.mktemp("table")
    (folder / "nets.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "table.toml").write_text(TOML, encoding="utf-8")
    return folder / "table.toml"


@pytest.fixture(scope="module")
def table(mapping: Path) -> Table:
    return load(mapping)


# Curves


def test_a_curve_counts_what_had_ended(table: Table) -> None:
    curve = Curve([Step(2, 1, 1, None), Step(20, 3, 1, 4), Step(22, 5, 2, None), Step(40, 6, 2, 9)])
    assert [len(curve.until(epochs)) for epochs in (1.9, 2, 20, 39.9, 40, 99)] == [0, 1, 2, 3, 4, 4]
    assert curve.spent == 40
    assert curve.share(table, 19, None) == 0.0
    assert curve.share(table, 39, None) == table.hypervolume([4]) / table.optimum()
    assert curve.share(table, 40, 3.0) == table.hypervolume([4, 9], 3.0) / table.optimum(3.0)
    assert curve.measured_per_trained(1) is None
    assert curve.measured_per_trained(40) == 3.0


@pytest.mark.parametrize("sampler", ["local", "tpe", "nsga2", "random"])
def test_a_search_of_vnas_spends_what_it_may(table: Table, sampler: str) -> None:
    curve = searched(table, 1, 120.0, sampler=sampler, last=False)  # type: ignore[arg-type]
    assert 100.0 < curve.spent <= 120.0
    full = [step.row for step in curve.steps if step.row is not None]
    early = [step for step in curve.steps if step.row is None]
    assert len(set(full)) == len(full)
    assert curve.spent == 2 * len(early) + 18 * len(full)
    assert curve.steps[-1].trained == len(early) <= curve.steps[-1].measured


def test_all_nets_are_the_optimum(table: Table) -> None:
    curve = searched(table, 0, 2_000.0, sampler="random", last=True)
    assert curve.share(table, 2_000.0, None) == pytest.approx(1.0)


def test_no_net_over_the_budget_is_trained(table: Table) -> None:
    for curve in (
        searched(table, 0, 100.0, budget_ms=4.0, last=True),
        forty_lines(table, 0, 100.0, 4.0),
        *(optuna_curve(table, 0, 100.0, sampler, 4.0) for sampler in SAMPLERS),
    ):
        rows = [step.row for step in curve.steps if step.row is not None]
        assert rows
        assert (table.latency_ms[rows] <= 4.0).all()
        assert curve.steps[-1].measured >= curve.steps[-1].trained


def test_a_search_ends_where_nobody_looks_any_more(table: Table) -> None:
    whole, part = (searched(table, 3, 200.0, sampler="random", last=False, until=until) for until in (None, 60.0))
    assert 60.0 <= part.spent < 100.0
    assert whole.steps[: len(part.steps)] == part.steps


# Baselines


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_optuna_trains_each_net_once_and_in_full(table: Table, sampler: str) -> None:
    curve = optuna_curve(table, 5, 150.0, sampler)
    assert [step.spent for step in curve.steps] == [20.0 * count for count in range(1, 8)]
    assert len({step.row for step in curve.steps}) == 7
    assert optuna_curve(table, 5, 150.0, sampler) == curve
    everything = optuna_curve(table, 5, 9_999.0, sampler)
    assert len(everything.steps) == len(table)


def test_local_search_spends_half_on_the_first_rung(table: Table) -> None:
    curve = forty_lines(table, 2, 80.0)
    early = [step for step in curve.steps if step.row is None]
    assert early == curve.steps[: len(early)]
    assert early[-1].spent == 40.0
    assert curve.spent == 40.0 + 2 * 18.0
    assert forty_lines(table, 2, 9_999.0).share(table, 9_999.0, None) == pytest.approx(1.0)


def test_its_own_front_and_area_are_those_of_vnas(table: Table) -> None:
    accuracy = {row: float(table.accuracy[0][row, 0]) for row in range(0, len(table), 2)}
    points = np.array([(100.0 - value, table.latency_ms[row]) for row, value in accuracy.items()])
    on_front = [row for row, there in zip(accuracy, non_dominated(points), strict=True) if there]
    assert sorted(_front(table, accuracy)) == on_front
    assert _area([tuple(point) for point in points], table) == pytest.approx(hypervolume(points, table.reference))
    assert _area([], table) == 0.0


# Variants


def test_variants_change_one_thing_each(table: Table) -> None:
    tables = {name: make(table) for name, make in VARIANTS.items()}
    same, fewer, noisy, seconds, nearer = tables.values()
    assert same is table
    assert len(fewer) == 8
    assert set(fewer.choices["op0"]) == {"conv", "pool"}
    row = table.row({"op0": "pool", "op1": "conv", "op2": "pool"})
    here = fewer.row({"op0": "pool", "op1": "conv", "op2": "pool"})
    assert fewer.latency_ms[here] == table.latency_ms[row]
    assert fewer.accuracy[1][here].tolist() == pytest.approx(table.accuracy[1][row].tolist(), nan_ok=True)
    assert np.std(noisy.accuracy[0] - table.accuracy[0]) == pytest.approx(3.0, rel=0.5)
    assert np.array_equal(noisy.accuracy[1], table.accuracy[1], equal_nan=True)
    assert np.mean(seconds.latency_ms < 10.0) == pytest.approx(np.mean(table.latency_ms < 10.0), abs=0.05)
    assert np.corrcoef(seconds.latency_ms, table.seconds)[0, 1] == pytest.approx(1.0)
    assert nearer.reference == pytest.approx((100.0, 7.0))


# The tables


def test_a_plan_has_every_search_once() -> None:
    plan = Plan((200.0, 500.0, 1000.0), 5.0, seeds=8, long_seeds=2, slow_seeds=5, robust=True)
    tasks = list(plan.searches())
    assert len(set(tasks)) == len(tasks)
    ours = [task for task in tasks if task.method == OURS and task.variant == AS_IT_IS and task.budget_ms is None]
    assert sum(task.epochs == 1000.0 for task in ours) == 2
    assert sum(task.epochs == 500.0 for task in ours) == 8
    anytime = [task for task in tasks if task.method == ANYTIME]
    assert {task.epochs for task in anytime} == {1000.0}
    assert [task.until for task in anytime if task.budget_ms is None] == [1000.0] * 2 + [500.0] * 6
    assert max(task.until for task in tasks if task.budget_ms is not None) == 500.0
    slow = [task for task in tasks if METHODS[task.method].slow]
    assert {task.until for task in slow} == {500.0}
    assert {task.seed for task in slow} == set(range(5))
    assert plan.middle == 500.0


def test_a_cell_says_how_many_seeds_it_lacks() -> None:
    assert cell([0.5, 0.25], 2) == "0.375 (0.250)"
    assert cell([0.5], 2) == "0.500 (0.500, n = 1)"
    assert cell([], 2) == ""


def test_where_a_share_is_reached(table: Table) -> None:
    plan = Plan((40.0, 60.0), 5.0, 1, 1, 5, False)
    best = int(np.argmax([table.hypervolume([row]) for row in range(len(table))]))
    task = next(task for task in plan.searches() if task.method == DEFAULT)
    answers = Answers(table, {task: Curve([Step(20, 1, 1, 0), Step(40, 2, 2, best), Step(60, 3, 3, 1)])})
    assert answers.reached(DEFAULT, table.hypervolume([best]) / table.optimum(), plan, None) == 40.0
    assert answers.reached(DEFAULT, 1.0, plan, None) is None
    assert answers.reached(OURS, 0.1, plan, None) is None


def test_the_whole_command(
    mapping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "vnas, anytime, sampler gp", METHODS[ANYTIME])  # which takes seconds
    out, answers = tmp_path / "table.md", tmp_path / "answers.jsonl"
    arguments = ["--table", str(mapping), "--seeds", "2", "--long-seeds", "1", "--epochs", "2", "4", "--robust"]
    arguments += ["--answers", str(answers)]
    assert search_tabular.main([*arguments, "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| method | 40 | 80 |" in text
    assert "## Under 5 ms" in text
    assert all(text.count(f"| {name} |") >= 2 for name in METHODS)
    assert all(f"| {name} |" in text for name in VARIANTS)
    assert "target" not in text  # they are for another table
    assert "Command: `python -m benchmarks.search_tabular --table" in text
    # The same again asks for nothing that is there, and says the same of it.
    monkeypatch.setattr(search_tabular, "curve_of", None)
    again = tmp_path / "again.md"
    assert search_tabular.main([*arguments, "--out", str(again)]) == 0
    assert tables_of(again.read_text(encoding="utf-8")) == tables_of(text)


def tables_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_usage(mapping: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        search_tabular.main(["--table", str(mapping), "--seeds", "0"])
    assert search_tabular.main(["--table", str(mapping.with_name("none.toml"))]) == 2
    assert "none.toml" in capsys.readouterr().err


# Scale


def test_analytic_answers_are_those_of_the_draw() -> None:
    problem, evaluator = AnalyticProblem(), AnalyticEvaluator()
    small, large = (problem.subject(dict.fromkeys(NAMES, letter)) for letter in "ad")
    assert problem.size == 16_777_216
    assert small.digest != large.digest
    assert evaluator.measure(small)["latency_ms"] < evaluator.measure(large)["latency_ms"]
    accuracies = [evaluator.train(large, rung, lambda share: None)["val_top1"] for rung in (0, 1)]
    assert accuracies[0] < accuracies[1] <= 100.0
    assert evaluator.measure(large) == AnalyticEvaluator().measure(large)


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module")
@pytest.mark.parametrize("storage", search_scale.STORAGES)
def test_a_study_of_so_many_trials(storage: str) -> None:
    outcome = search_scale.perform(Task("random", storage, 20, 1.0, all_gates=True, read=storage == "sqlite"))
    assert len(outcome.seconds) == 20
    assert outcome.ended is None
    assert min(outcome.seconds) > 0
    assert outcome.peak_mib >= outcome.start_mib > 10
    assert (outcome.file_mib is None) == (storage == "memory")
    if storage == "sqlite":
        assert isinstance(outcome.read, tuple), outcome.read
    text = "\n".join(search_scale.report([outcome], [Throughput(4, 200, 5.0)]))
    assert f"| random | {storage} | 20 |" in text
    assert "| 4 | 200 | 40.0 | 80 | 0.50 |" in text


def test_a_study_that_takes_too_long_ends() -> None:
    watch = Stopwatch(10, minutes=0.0)
    assert watch.enough
    outcome = Outcome(Task("nsga2", "memory", 10, 0.0, False), [0.1, 0.2, 0.3], 1.0, {}, 10.0, 20.0, None, "late", None)
    text = "\n".join(search_scale.report([outcome], []))
    assert "nsga2 on memory ended after 3 trials: late." in text
    assert "the target of less than 50 is missed" in text
