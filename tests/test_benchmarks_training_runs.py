"""The benchmarks made of training runs: their intervals and tables on made-up numbers, and whole runs on the digits."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import recipe_choices, short_budget, technique_table, training_runs
from benchmarks.rung_records import Outcome, Score
from benchmarks.training_command import follow, make_parser
from benchmarks.training_runs import Interval, Job, over_nets, over_seeds, perform_all, settings, trained
from vnas.config import DataConfig, TrainingConfig, load_study
from vnas.errors import ResumeError
from vnas.nets import Architecture, Stage, Stem
from vnas.training import evaluate, fit, open_data

DIGITS = DataConfig(source="digits")
ARCH = Architecture(Stem(4, series=0), (Stage(8, series=0),), in_chans=1, num_classes=10, image_size=16)
CPU = torch.device("cpu")


def job(seed: int = 0, images: int = 256, arm: str = "plain", **recipe: object) -> Job:
    training = TrainingConfig.model_validate({"batch_size": 64, "flip": False, "epochs": 1, **recipe})
    return Job("small", arm, ARCH, training, images, seed)


def outcome(net: str, arm: str, seed: int, top1: float, seconds: float = 1.0) -> Outcome:
    return Outcome(net, arm, seed, (Score("test", 0, top1, 1.0, seconds),))


def test_the_interval_over_seeds_is_students() -> None:
    values = [50.0, 52.0, 57.0]
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx(stats.ttest_1samp(values, 0.0).confidence_interval(0.95))
    assert found.mean == pytest.approx(53.0)
    assert over_seeds([4.0]) == Interval(4.0)
    assert Interval(1.25, -2.0, 3.0).text(sign="+") == "+1.2 [-2.0, +3.0]"


def test_the_interval_over_nets_has_the_spread_of_a_bootstrap_of_both() -> None:
    random = np.random.default_rng(3)
    values = random.normal(10.0, 1.0, (30, 1)) + random.normal(0.0, 6.0, (30, 3))
    found = over_nets(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    # Variance of a mean of drawn nets, plus that of their seeds' means; both ends are 1.96 of its root away.
    variance = values.mean(1).var() / 30 + (values.var(1) / 3).mean() / 30
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.05)
    assert over_nets(values.tolist()) == found
    assert over_nets([[1.0, 3.0]]) == Interval(2.0)


def test_a_run_is_a_whole_one_on_so_many_images_judged_on_the_test_set() -> None:
    data = open_data(DIGITS)
    # The warm-up is the recipe's share of a run, so half an epoch of two here.
    run = job(seed=3, images=2 * data.counts["train"], epochs=4, warmup_epochs=1.0)
    result = fit(ARCH, data, run.training.model_copy(update={"epochs": 2, "warmup_epochs": 0.5}), seed=3, device=CPU)
    assert result.fused is not None
    assert trained(run, data)[0] == evaluate(result.fused, data.loader("test", 16, device=CPU), CPU)


def test_finished_runs_are_not_done_again_and_more_seeds_can_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fake(one: Job, data: object) -> tuple[float, float]:
        calls.append(one.seed)
        if one.seed == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return 50.0 + one.seed, 1.0

    monkeypatch.setattr(training_runs, "trained", fake)
    data, answers = open_data(DIGITS), tmp_path / "answers.jsonl"
    jobs = [job(seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        perform_all(jobs, DIGITS, answers, settings(jobs, data), 1)
    jobs.append(job(3))
    found = perform_all(jobs, DIGITS, answers, settings(jobs, data), 1)
    assert calls == [0, 1, 2, 2, 3]
    assert {key[2]: one.scores[0].value for key, one in found.items()} == {0: 50.0, 1: 51.0, 2: 52.0, 3: 53.0}
    other = [job(0, lr=1e-3)]
    with pytest.raises(ResumeError, match="small, plain"):
        perform_all(other, DIGITS, answers, settings(other, data), 1)


def test_a_run_that_diverges_is_told_and_left_out(tmp_path: Path) -> None:
    jobs = [job(0, lr=1e30, optimizer="sgd", min_lr=0.0, images=512)]
    found = perform_all(jobs, DIGITS, tmp_path / "answers.jsonl", settings(jobs, open_data(DIGITS)), 1)
    assert "loss" in (found[jobs[0].key].error or "")


def test_the_plain_recipe_gets_no_less_time_and_no_fewer_images() -> None:
    assert short_budget.extra_images(1.2, 1000) == 1200
    assert short_budget.extra_images(0.9, 1000) == 1000


def test_the_pace_is_that_of_whole_steps_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_budget, "TURN_IMAGES", 256)
    monkeypatch.setattr("vnas.training.run.Run.seconds", property(lambda run: float(run.step) ** 2))
    found = short_budget.seconds_per_image(job(), open_data(DIGITS))
    assert found == pytest.approx((4**2 - 1**2) / (3 * 64))


def test_paces_are_measured_once_for_each_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, answers = open_data(DIGITS), tmp_path / "answers.jsonl"
    jobs = [job(100, arm=arm) for arm in ("recipe", "plain")]
    monkeypatch.setattr(short_budget, "seconds_per_image", lambda job, data: {"recipe": 3.0, "plain": 2.0}[job.arm])
    assert short_budget.paces(jobs, data, answers, settings(jobs, data)) == {"small": 1.5}
    monkeypatch.setattr(short_budget, "pace", None)
    assert short_budget.paces(jobs, data, answers, settings(jobs, data)) == {"small": 1.5}


def test_the_table_of_the_budget_pairs_seeds_and_says_whether_the_target_is_met() -> None:
    jobs = [job(seed, arm=arm, images=900) for seed in (100, 101) for arm in ("recipe", "plain")]
    outcomes = [
        outcome("small", "recipe", 100, 60.0, 3.0),
        outcome("small", "plain", 100, 56.0, 2.0),
        outcome("small", "recipe", 101, 64.0, 3.0),
        outcome("small", "plain", 101, 58.0, 2.0),
    ]
    text = "\n".join(short_budget.report(jobs, {one.key: one for one in outcomes}, 900))
    row = next(line for line in text.splitlines() if line.startswith("| small"))
    assert re.search(r"\| 900 \| 57\.0 \[.*\| 900 \| 62\.0 \[.*\| \+5\.0 \[-7\.7, \+17\.7\] \| 1\.50 \|", row)
    assert "Recipe less plain: +5.0 points; the target of 3 is met." in text
    broken = {**{one.key: one for one in outcomes}, ("small", "plain", 100): Outcome("small", "plain", 100, (), "bad")}
    text = "\n".join(short_budget.report(jobs, broken, 900))
    assert "+6.0" in text
    assert "Left out: small, plain, seed 100: bad" in text


def test_the_budget_has_other_seeds_than_usual_and_both_arms_the_same_net_and_lambda() -> None:
    study = load_study("cifar10")
    # The nets need the data's classes and channels alone.
    data = argparse.Namespace(in_chans=3, num_classes=10)
    jobs = short_budget.jobs(study, data, 1000, 2)  # type: ignore[arg-type]
    nets = short_budget.nets(study, data)  # type: ignore[arg-type]
    assert all(one.training.anneal == nets[one.net].anneal for one in jobs)
    assert len({one.training.anneal.end for one in jobs}) > 1
    assert len(jobs) == 4 * 2 * 2
    for one, other in zip(jobs[::2], jobs[1::2], strict=True):
        assert (one.net, one.seed, one.architecture) == (other.net, other.seed, other.architecture)
        assert one.training.anneal == other.training.anneal
        assert (one.arm, other.arm) == ("recipe", "plain")
        assert one.training == study.training.model_copy(update={"anneal": one.training.anneal})
        assert other.training == TrainingConfig(**short_budget.PLAIN, anneal=one.training.anneal)
        assert other.training.optimizer != one.training.optimizer
    assert {one.seed for one in jobs} == {100, 101}


def test_the_arms_of_the_technique_table_differ_in_what_they_are_called_after() -> None:
    recipe = load_study("cifar10").training
    jobs = technique_table.jobs(recipe, 1000, 1)
    assert len({one.arm for one in jobs}) == len(jobs) == 7
    for one in jobs:
        orders = {stage.series for stage in (one.architecture.stem, *one.architecture.stages)}
        assert one.arm.endswith(f"n = {orders.pop()}")
        assert one.training.merge == one.arm.startswith("single")
        assert not orders
    assert len({one.images for one in jobs}) == 1


def test_single_convolutions_are_trained_as_such_from_the_first_step() -> None:
    single = technique_table.jobs(TrainingConfig(batch_size=64, flip=False), 1000, 1)[0].training
    data = open_data(DIGITS)
    assert fit(ARCH, data, single.model_copy(update={"epochs": 1}), seed=0, device=CPU).merged_at == 0


def test_the_technique_table_holds_gains_over_none() -> None:
    top1 = {(False, 0): 40.0, (False, 3): 55.0, (True, 0): 42.0, (True, 1): 51.0, (True, 2): 52.0, (True, 3): 57.0}
    outcomes = {}
    for (deep, n), value in top1.items():
        for seed in range(3):
            one = outcome(technique_table.NET, technique_table.arm_name(deep, n), seed, value + seed)
            outcomes[one.key] = one
    lines = technique_table.report(outcomes, 1000, 3, 500)
    assert "| x | x | 58.0 [55.5, 60.5] | +17.0 [+17.0, +17.0] | 76.36 |" in lines
    assert "|  |  | 41.0 [38.5, 43.5] | +0.0 [+0.0, +0.0] | 59.58 |" in lines
    assert "| 2 | 53.0 [50.5, 55.5] | +12.0 [+12.0, +12.0] |  |" in lines
    assert "| 4 |  |  |  |" in lines
    key = technique_table.NET, technique_table.arm_name(False, 0), 2
    outcomes[key] = Outcome(*key, (), "diverged")
    lines = technique_table.report(outcomes, 1000, 3, 500)
    assert "| 2 | 53.0 [50.5, 55.5] | +12.0 [+12.0, +12.0] |  |" in lines
    assert "- Left out: single, n = 0, seed 2: diverged" in lines


def test_every_choice_differs_from_the_recipe_in_what_it_is_called_after_and_is_judged_on_the_validation_set() -> None:
    study = load_study("cifar10")
    data = open_data(DIGITS)
    jobs = recipe_choices.jobs(study, data, 1000, 2)
    assert {one.split for one in jobs} == {"validation"}
    assert len({one.key for one in jobs}) == len(jobs) == 2 * 4 * len(recipe_choices.changes(study))
    widths = [max(stage.width for stage in one.architecture.stages) for one in jobs if one.arm == recipe_choices.RECIPE]
    assert widths == 2 * sorted(widths[:4])
    recipe = study.training.model_dump(exclude={"anneal"})
    for one in jobs:
        differing = {name for name, value in one.training.model_dump().items() if recipe.get(name, value) != value}
        named = set(re.findall(r"(\w+) =", one.arm))
        assert differing == (named or ({"lr", "adamw_lr"} if "rates" in one.arm else set()))
    assert not set(recipe_choices.nets(study, data)) & set(short_budget.nets(study, data))


def test_a_choice_is_compared_with_the_recipe_on_the_same_nets_and_seeds() -> None:
    study = load_study("cifar10")
    wanted = recipe_choices.jobs(study, open_data(DIGITS), 1000, 2)
    names = list(dict.fromkeys(one.net for one in wanted))
    changed = 'init = "default"'
    outcomes = {}
    for number, name in enumerate(names):
        for seed in (0, 1):
            for arm, top1, seconds in ((recipe_choices.RECIPE, 60.0, 4.0), (changed, 60.0 + number + seed, 3.0)):
                one = outcome(name, arm, seed, top1 + 10.0 * seed, seconds)
                outcomes[one.key] = one
    key = names[3], changed, 1
    outcomes[key] = Outcome(*key, (), "diverged")
    lines = recipe_choices.report(wanted, outcomes, 500)
    row = next(line for line in lines if line.startswith("| `init"))
    assert row.endswith("| 0.75 | +0.5 | +1.5 | +2.5 | +3.0 |")
    assert "| +1.9 [" in row
    assert "| the recipe | 65.0 |  |  |  |  |  |  |" in lines
    assert not any("merge" in line for line in lines)
    assert f"- Left out: {names[3]}, {changed}, seed 1: diverged" in lines


def test_the_command_writes_the_report_with_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser("First.\n\nRest.\n", tmp_path / "deep" / "table.md", 5)
    seen: list[argparse.Namespace] = []

    def run(options: argparse.Namespace) -> list[str]:
        seen.append(options)
        return ["# Table"]

    kept = str(tmp_path / "deep" / "table.jsonl")
    assert follow(parser, ["--data", "there", "--answers", kept, "--jobs", "2"], run, "benchmarks.some") == 0
    assert (seen[0].images, seen[0].answers) == (5, tmp_path / "deep" / "table.jsonl")
    text = (tmp_path / "deep" / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# Table\n\n")
    assert "Command: `python -m benchmarks.some --data CIFAR10 --jobs 2`" in text
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(SystemExit, match="2"):
        follow(parser, ["--data", "there", "--seeds", "0"], run, "benchmarks.some")

    def stopped(options: argparse.Namespace) -> list[str]:
        raise KeyboardInterrupt

    assert follow(parser, ["--data", "there"], stopped, "benchmarks.some") == 130


@pytest.mark.parametrize("name", ["recipe_choices", "short_budget", "technique_table"])
def test_help_imports_no_torch(name: str) -> None:
    code = f"import sys; from benchmarks.{name} import main\ntry: main(['--help'])\nfinally: assert 'torch' not in "
    code += "sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
