"""The rung benchmark: its tables on made-up nets, its file of results, and a whole small run on the digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import rung_arms, rung_fidelity, rung_table
from benchmarks.rung_arms import STRATEGIES, Setting, Task, perform, rungs
from benchmarks.rung_records import ZERO_COST, Outcome, Score, append, finished, read
from benchmarks.training_runs import opened
from vnas.config import StudyConfig, load_study
from vnas.errors import ConfigError, DataError, ResumeError
from vnas.evaluate import Candidate
from vnas.prediction import agreement, tau_advantage
from vnas.search import space
from vnas.training import Progress, evaluate, fit
from vnas.training.command.watching import Look
from vnas.training.rungs.training import Strategy, epochs_spent

SEED = 3
NETS = [f"net{number:02}" for number in range(20)]
RANDOM = np.random.default_rng(0)
LONG = dict(zip(NETS, RANDOM.uniform(50.0, 60.0, len(NETS)), strict=True))
NOISE = dict(zip(NETS, RANDOM.normal(0.0, 5.0, len(NETS)), strict=True))


def outcomes() -> list[Outcome]:
    """Ours is in perfect order, restart in reverse, the early stop noisy; synflow knows nothing of ten nets."""
    found = []
    for number, net in enumerate(NETS):
        found += [
            Outcome(
                net,
                "long",
                SEED,
                (
                    Score("stopped", 0, LONG[net] + NOISE[net], 1.0, 4.0),
                    Score("stopped, fused", 0, LONG[net] - 30.0, 1.0, 4.0),
                    Score("long", 0, LONG[net], 10.0, 20.0),
                ),
            ),
            Outcome(net, "branch", SEED, (Score("branch", 0, LONG[net] - 20.0, 1.0, 2.0),)),
            Outcome(net, "restart", SEED, (Score("restart", 0, 100.0 - LONG[net], 1.0, 2.0),)),
            Outcome(net, "proxies", SEED, (Score("synflow", ZERO_COST, -np.inf if number < 10 else 1.0, 0.0, 0.1),)),
            Outcome(net, "long", SEED + 1, (Score("long", 0, LONG[net], 10.0, 20.0), Score("stopped", 0, 0, 1, 1))),
        ]
    return found


def row(found: list[rung_table.Row], arm: str) -> rung_table.Row:
    return next(one for one in found if one.arm == arm)


def test_each_arm_is_held_against_the_long_run_and_against_ours() -> None:
    found = rung_table.rows(rung_table.by_arm(outcomes(), SEED), epochs=10)
    assert [one.arm for one in found] == [
        "branch", "restart", "stopped", "stopped, fused", "synflow", "long, another seed",
    ]  # fmt: skip
    truth, noisy = list(LONG.values()), [LONG[net] + NOISE[net] for net in NETS]
    assert row(found, "stopped").agrees == agreement(truth, noisy)
    assert row(found, "stopped").behind == tau_advantage(truth, truth, noisy)
    ours, restart = row(found, "branch"), row(found, "restart")
    assert ours.agrees.kendall_tau is not None
    assert ours.agrees.kendall_tau.value == 1.0
    assert ours.behind is None
    assert restart.behind is not None
    assert restart.behind.value == 2.0
    assert row(found, "long, another seed").behind is None


def test_costs_are_shares_of_the_long_run() -> None:
    found = rung_table.rows(rung_table.by_arm(outcomes(), SEED), epochs=10)
    assert (row(found, "branch").epochs_share, row(found, "branch").seconds_share) == (0.1, 0.1)
    assert (row(found, "stopped").epochs_share, row(found, "stopped").seconds_share) == (0.1, 0.2)
    assert row(found, "synflow").epochs_share == 0.0
    assert row(found, "branch").mean == pytest.approx(np.mean(list(LONG.values())) - 20.0)


def test_an_infinite_proxy_is_ranked_last() -> None:
    found = row(rung_table.rows(rung_table.by_arm(outcomes(), SEED), epochs=10), "synflow")
    expected = agreement(list(LONG.values()), [number >= 10 for number in range(len(NETS))])
    assert found.agrees == expected


def test_a_net_that_one_arm_has_not_judged_counts_for_none() -> None:
    without = [one for one in outcomes() if (one.net, one.task) != ("net05", "restart")]
    without[0] = Outcome("net00", "long", SEED, (), "the loss became nan")
    values = rung_table.by_arm(without, SEED)
    assert rung_table.complete(values) == [net for net in NETS if net not in ("net00", "net05")]
    lines = rung_table.net_table(values, {net: (net, 1.0) for net in NETS})
    assert len(lines) == 2 + 18
    best = max((net for net in LONG if net not in ("net00", "net05")), key=lambda net: LONG[net])
    assert lines[2].startswith(f"| {best} | 1.0 | {LONG[best] - 20.0:.1f} |")
    assert lines[0].startswith("| net | MMACs | branch 1 | restart 1 | stopped 1 | stopped, fused 1 | long |")


def test_a_second_long_run_of_some_nets_takes_no_net_from_the_others() -> None:
    some = [one for one in outcomes() if one.seed == SEED or one.net < "net12"]
    values = rung_table.by_arm(some, SEED)
    assert rung_table.complete(values) == NETS
    ceiling = row(rung_table.rows(values, epochs=10), "long, another seed")
    assert ceiling.agrees == agreement([LONG[net] for net in NETS[:12]], [LONG[net] for net in NETS[:12]])


def test_the_verdict_names_the_best_of_the_others_and_the_target() -> None:
    found = rung_table.rows(rung_table.by_arm(outcomes(), SEED), epochs=10)
    first, ceiling = rung_table.verdict(found)
    assert "tau 1.00 [1.00, 1.00] (target 0.75: met)" in first
    # Fused anyway is in perfect order too, here.
    assert "not the highest, which is long run stopped, fused anyway with 1.00" in first
    assert "two long runs that differ in nothing but the seed agree to tau 1.00" in ceiling
    without = [one for one in found if one.arm != "stopped, fused"]
    assert "the highest, next long run stopped, training form with" in rung_table.verdict(without)[0]
    table = rung_table.markdown(found)
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(found)


def test_results_are_read_back_and_gone_on_with(tmp_path: Path) -> None:
    path, settings = tmp_path / "deep" / "answers.jsonl", {"shares": (0.1, 0.3), "seed": 3}
    assert read(path, settings) == []
    for outcome in outcomes()[:4]:
        append(path, outcome)
    assert read(path, settings) == outcomes()[:4]
    assert finished(outcomes()[:2]) == {("net00", "long", SEED), ("net00", "branch", SEED)}


def test_a_torn_line_is_cut_off_wherever_it_is_torn(tmp_path: Path) -> None:
    path, settings = tmp_path / "answers.jsonl", {"seed": 3}
    read(path, settings)
    for outcome in outcomes()[:2]:
        append(path, outcome)
    whole = path.read_bytes()
    ends = [number for number, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 41), *ends, *(end + 1 for end in ends)}):
        path.write_bytes(whole[:length])
        expected = max(0, sum(end < length for end in ends) - 1)
        assert read(path, settings) == outcomes()[:expected]
        append(path, outcomes()[2])
        assert read(path, settings) == [*outcomes()[:expected], outcomes()[2]]


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    read(path, {"training.lr": 0.1, "seed": 3})
    with pytest.raises(ResumeError, match=r"training\.lr = 0\.1, but training\.lr = 0\.2 is asked for; ask for"):
        read(path, {"training.lr": 0.2, "seed": 3})
    with pytest.raises(ResumeError, match="and 1 more difference"):
        read(path, {"training.lr": 0.2, "seed": 4})
    path.write_text("something else\n")
    with pytest.raises(DataError, match="--answers"):
        read(path, {"seed": 3})


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shares", [(0.1, 0.3, 1.0), (0.5, 1.0), (0.7, 0.8, 0.9)])
def test_a_rung_has_cost_its_share_whatever_the_strategy(strategy: Strategy, shares: tuple[float, ...]) -> None:
    planned = rungs(strategy, shares, 0.25, 10)
    assert epochs_spent(planned, strategy) == pytest.approx([10 * share for share in shares])


def test_a_branch_is_its_share_of_what_the_rung_adds() -> None:
    planned = rungs("branch", (0.1, 0.3, 1.0), 0.25, 10)
    assert [rung.branch_epochs for rung in planned] == pytest.approx([0.25, 0.5, 1.75])
    assert [rung.trunk_epochs for rung in planned] == pytest.approx([0.75, 1.5, 5.25])


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study("quickstart", ["training.epochs=2"])


@pytest.fixture(scope="module")
def setting(study: StudyConfig) -> Setting:
    return Setting(study.data, study.training, (0.25, 0.5), 0.5, "cpu")


def drawn(study: StudyConfig, setting: Setting, count: int) -> list[Candidate]:
    return rung_fidelity.sample(study, opened(setting.data), count, SEED, 0.2)[0]


def test_nets_are_different_within_the_limit_and_the_same_again(
    study: StudyConfig, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = opened(setting.data)
    nets, passed_over = rung_fidelity.sample(study, data, 4, SEED, 1.0)
    assert len({net.architecture.digest for net in nets}) == 4
    assert all(rung_fidelity.training_mmacs(net.architecture) <= 1.0 for net in nets)
    assert passed_over > 0
    assert rung_fidelity.sample(study, data, 2, SEED, 1.0)[0] == nets[:2]
    assert rung_fidelity.sample(study, data, 2, SEED + 1, 1.0)[0] != nets[:2]
    assert rung_fidelity.sample(study, data, 2, SEED, 1e9)[1] == 0
    draw = space.random_draw
    monkeypatch.setattr(space, "random_draw", lambda options, seed: draw(options, (seed[0], seed[1] // 2)))
    assert rung_fidelity.sample(study, data, 2, SEED, 1.0)[0] == nets[:2]  # each draw comes twice
    monkeypatch.setattr(rung_fidelity, "MAX_DRAWS", 5)
    with pytest.raises(ConfigError, match="raise --max-mmacs"):
        rung_fidelity.sample(study, data, 1, SEED, 1e-6)


def test_looking_at_the_long_run_does_not_change_it(study: StudyConfig, setting: Setting) -> None:
    net = drawn(study, setting, 1)[0]
    outcome = perform(Task(net, "long", SEED), setting)
    data, device = opened(setting.data), torch.device("cpu")
    config = setting.training.model_copy(update={"anneal": net.anneal})
    fused = fit(net.architecture, data, config, seed=SEED, device=device).fused
    assert fused is not None
    test = data.loader("test", net.architecture.image_size, device=device)
    scores = {(score.arm, score.rung): score for score in outcome.scores}
    assert set(scores) == {(arm, rung) for arm in ("stopped", "stopped, fused") for rung in (0, 1)} | {("long", 0)}
    assert scores["long", 0].value == evaluate(fused, test, device)
    for rung, share in enumerate(setting.shares):
        assert scores["stopped", rung].epochs == pytest.approx(share * 2, abs=0.05)


def test_an_early_stop_is_charged_for_its_own_training_and_look(
    study: StudyConfig, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 10 steps of 1 s of training; a look takes 5 s besides.
    class SlowWatch:
        def __init__(self, *_: object) -> None:
            self.seconds = 0.0

        def keep(self, net: nn.Module) -> nn.Module:
            return net

        def look(self) -> Look:
            self.seconds += 5.0
            return Look(training_form=10.0 + self.seconds, fused=self.seconds)

    watches = []

    def watched(*arguments: object) -> SlowWatch:
        watches.append(SlowWatch(*arguments))
        return watches[-1]

    def run(*_: object, progress: Callable[[Progress], None], **__: object) -> SimpleNamespace:
        for step in range(1, 11):
            progress(Progress(0, 2, step, 10, 1.0, 0.1, 0.0, 0.0, float(step), 1.0))
        return SimpleNamespace(fused=nn.Identity())

    monkeypatch.setattr(rung_arms, "Watch", watched)
    monkeypatch.setattr(rung_arms, "fit", run)
    monkeypatch.setattr(rung_arms, "evaluate", lambda *_: 80.0)
    scores = perform(Task(drawn(study, setting, 1)[0], "long", SEED), replace(setting, shares=(0.2, 0.5))).scores
    assert scores[:4] == (
        Score("stopped", 0, 15.0, 0.4, 7.0),
        Score("stopped, fused", 0, 5.0, 0.4, 7.0),
        Score("stopped", 1, 20.0, 1.0, 10.0),
        Score("stopped, fused", 1, 10.0, 1.0, 10.0),
    )
    assert (scores[4].arm, scores[4].value, scores[4].epochs) == ("long", 80.0, 2.0)


def test_a_run_that_ends_early_is_an_outcome(study: StudyConfig, setting: Setting) -> None:
    net = drawn(study, setting, 1)[0]
    training = setting.training.model_copy(update={"lr": 1e30, "optimizer": "sgd"})
    outcome = perform(Task(net, "long", SEED), Setting(setting.data, training, (0.25,), 0.5, "cpu"))
    assert outcome.scores == ()
    assert outcome.error is not None
    assert "the loss became" in outcome.error


ARGUMENTS = ["--study", "quickstart", "--nets", "2", "--epochs", "2", "--shares", "0.25", "0.5", "--max-mmacs", "0.2"]


def test_a_whole_run_and_going_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, answers = tmp_path / "fidelity.md", tmp_path / "fidelity.jsonl"
    command = [*ARGUMENTS, "--jobs", "1", "--out", str(out)]
    assert rung_fidelity.main(command) == 0
    assert "10 of 10 runs to do" in capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    for arm in ("ours: branch", "from scratch", "put back", "training form", "fused anyway", "naswot", "synflow"):
        assert f"| {arm}" in text or f"{arm}, fused |" in text or f"{arm} " in text
    assert text.startswith("# How well a rung foretells")
    lines = answers.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 10
    costs = {
        (score["arm"], score["rung"]): score["epochs"]
        for line in lines[1:]
        for score in json.loads(line)["scores"]
        if score["rung"] != ZERO_COST
    }
    for (arm, rung), epochs in costs.items():
        # In steps: 18 an epoch, and each run is rounded to whole ones.
        assert epochs == pytest.approx(2.0 if arm == "long" else [0.5, 1.0][rung], abs=0.17), arm
    # A run that is missing is done again, with the same result apart from its time.
    branch = next(number for number, line in enumerate(lines) if '"task": "branch"' in line)
    answers.write_text("".join(f"{line}\n" for line in [*lines[:branch], *lines[branch + 1 :]]), encoding="utf-8")
    assert rung_fidelity.main(command) == 0
    assert "1 of 10 runs to do" in capsys.readouterr().err
    again, before = (json.loads(line) for line in (answers.read_text().splitlines()[-1], lines[branch]))
    assert [score["value"] for score in again["scores"]] == [score["value"] for score in before["scores"]]
    # Another recipe does not mix with these results.
    assert rung_fidelity.main([*command, "--set", "training.lr=1e-3"]) == 2
    assert "training.lr = " in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--shares", "0.3", "0.1"], ["--shares", "0"], ["--shares", "2"], ["--branch-share", "1"], ["--nets", "0"]],
)
def test_arguments_that_make_no_sense_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        rung_fidelity.main(wrong)
    assert wrong[0] in capsys.readouterr().err
