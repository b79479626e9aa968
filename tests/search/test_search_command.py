"""``python -m vnas.search`` as a user meets it: a run directory, an interrupt, a resume, wrong input."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch

from vnas.config import study_from_toml
from vnas.nets import Architecture, load_checkpoint
from vnas.search.cli import duration, main
from vnas.training import evaluate, open_data

Run = Callable[..., int]


def trials_of(run_dir: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(storage=f"sqlite:///{run_dir / 'study.db'}", study_name="tiny")
    return study.get_trials()


def test_a_run_writes_the_run_directory(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    folder = tmp_path / "run"
    for name in ("study.toml", "study.db", "trials.csv", "front.csv", "report.md", "report.html", "environment.json"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "figures").glob("*.png"))

    study = study_from_toml((folder / "study.toml").read_text())
    assert study.name == "tiny"
    trials = pd.read_csv(folder / "trials.csv")
    columns = "number state digest depth params macs latency_ms latency_low_ms latency_high_ms energy_mj val_top1"
    assert {*columns.split(), "epochs", "seconds"} <= set(trials.columns)
    assert any(name.startswith("predicted_ms_") for name in trials.columns)
    done = trials[trials["duplicate_of"].isna()]
    assert len(done) == 4
    assert (done["latency_low_ms"] <= done["latency_ms"]).all()
    assert (done["latency_ms"] <= done["latency_high_ms"]).all()

    front = pd.read_csv(folder / "front.csv")
    assert 1 <= front["weights"].notna().sum() <= 2
    out = capsys.readouterr().out
    assert out.startswith("device: cpu (")
    assert out.count("% val") == 4 + 2 * front["weights"].notna().sum()
    assert "left)" in out
    assert "Pareto front" in out
    assert f"report: {folder / 'report.html'}" in " ".join(out.split())


def test_saved_weights_reload_and_give_the_reported_test_accuracy(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    front = pd.read_csv(tmp_path / "run" / "front.csv", dtype={"digest": str}).dropna(subset=["weights"])
    data = open_data(study_from_toml((tmp_path / "run" / "study.toml").read_text()).data)
    device = torch.device("cpu")
    for row in front.itertuples():
        folder = tmp_path / "run" / "nets" / row.digest
        architecture = Architecture.from_json((folder / "architecture.json").read_text())
        assert architecture.digest == row.digest
        net = load_checkpoint(folder / "weights.safetensors", architecture)
        assert evaluate(net, data.loader("test", architecture.image_size, device=device), device) == row.test_top1
        assert not (folder / "seeds").exists()


def test_a_second_run_does_not_overwrite(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trials", "2") == 0
    assert run("--trials", "2") == 2
    error = capsys.readouterr().err
    assert "already holds study 'tiny'" in error
    assert "--resume" in error


def test_resume_goes_on_to_more_trials_and_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    assert run("--trials", "2") == 0
    before = trials_of(tmp_path / "run")
    assert run("--trials", "5", "--resume") == 0
    after = trials_of(tmp_path / "run")
    assert [(t.number, t.params, t.values, t.user_attrs) for t in after[: len(before)]] == [
        (t.number, t.params, t.values, t.user_attrs) for t in before
    ]
    assert sum("duplicate_of" not in trial.user_attrs for trial in after) == 5


def test_resume_without_a_study_takes_the_stored_one(run: Run, tmp_path: Path) -> None:
    assert run("--trials", "2") == 0
    start = ["--device", "cpu", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main([*start, "--resume", "--trials", "3"]) == 0
    assert len([t for t in trials_of(tmp_path / "run") if "duplicate_of" not in t.user_attrs]) == 3


def test_resume_refuses_another_study_naming_the_fields(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trials", "1") == 0
    assert run("--trials", "1", "--resume", "--set", "training.lr=0.5", "--seed", "7") == 2
    error = capsys.readouterr().err
    assert "Changed: seed: 0 -> 7; training.lr: 0.005 -> 0.5" in error


def test_resume_refuses_another_device(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--trials", "1") == 0
    monkeypatch.setattr("vnas.profiler.environment.cpu_kind", lambda: "another CPU, 64 CPUs")
    assert run("--trials", "2", "--resume") == 2
    assert "this is another CPU, 64 CPUs" in capsys.readouterr().err


def test_resume_where_there_is_nothing_begins(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trials", "1", "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_duplicates_are_told_and_not_trained_again(run: Run, tmp_path: Path, tiny: Path) -> None:
    arguments = ["--set", "space.stages.width=8", "--set", "space.stages.count=1", "--set", "space.stages.series=0"]
    arguments += ["--set", "space.stem.width=4", "--set", "space.stages.stride=1", "--set", "space.anneal.end=0.5"]
    # Two choices are left, so six candidates cannot be had: the study has to notice and end.
    assert run("--trials", "6", *arguments) == 0
    trials = trials_of(tmp_path / "run")
    first = [trial for trial in trials if "duplicate_of" not in trial.user_attrs]
    assert len(first) == 2
    known = {trial.number: trial for trial in first}
    for trial in trials:
        if "duplicate_of" in trial.user_attrs:
            original = known[trial.user_attrs["duplicate_of"]]
            assert trial.values == original.values
            assert trial.user_attrs["candidate"] == original.user_attrs["candidate"]
            assert "training" not in trial.user_attrs


def test_one_architecture_under_two_schedules_is_measured_once(run: Run, tmp_path: Path) -> None:
    assert run("--trials", "12", "--seed", "3") == 0
    by_digest: dict[str, set[float]] = {}
    for trial in trials_of(tmp_path / "run"):
        by_digest.setdefault(trial.user_attrs["digest"], set()).add(trial.user_attrs["latency_ms"])
    assert all(len(latencies) == 1 for latencies in by_digest.values())


def test_a_net_over_the_latency_budget_is_not_trained(run: Run, tmp_path: Path) -> None:
    few = ["--set", "space.stages.width=8", "--set", "space.stages.count=1", "--set", "space.stages.stride=1"]
    assert run("--trials", "3", "--latency-budget", "1e-6", *few, "--set", "gates.predicted=false") == 1
    trials = trials_of(tmp_path / "run")
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.PRUNED}
    for trial in trials:
        assert trial.user_attrs["gate"] == "budget"
        assert "training" not in trial.user_attrs
        assert trial.constraints["latency_over_budget_ms"] > 0
        assert "over the budget of 1e-06 ms" in trial.user_attrs["reason"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_that_diverges_fails_its_trial_and_not_the_study(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--trials", "2", "--set", "training.lr=1e30", "--set", "training.optimizer=sgd") == 1
    trials = trials_of(tmp_path / "run")
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.FAIL] * 2
    assert all("the loss became" in trial.user_attrs["reason"] for trial in trials)
    assert "failed: the loss became" in capsys.readouterr().out


def test_the_time_limit_ends_the_search_and_not_the_report(run: Run, tmp_path: Path) -> None:
    assert run("--trials", "5000", "--time", "1s") == 0
    assert 1 <= len(trials_of(tmp_path / "run")) < 5000
    assert (tmp_path / "run" / "report.html").is_file()


def test_two_runs_with_one_seed_train_alike(tiny: Path, tmp_path: Path) -> None:
    values = []
    for name in ("one", "two"):
        start = ["--study", str(tiny), "--device", "cpu", "--workers", "0", "--trials", "3"]
        assert main([*start, "--out", str(tmp_path / name)]) == 0
        values.append([(t.params, t.user_attrs["val_top1"]) for t in trials_of(tmp_path / name)])
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gpu", "99"], 3, "The devices there are:\n  cpu"),
        (["--device", "tpu"], 3, "device 'tpu' is not known"),
        (["--study", "quikstart"], 2, "Did you mean 'quickstart'"),
        (["--data", "/no/such/place"], 2, "/no/such/place"),
        (["--set", "training.epoch=3"], 2, "Did you mean 'epochs'"),
        (["--storage", "sqlite:////no/such/place/study.db"], 2, "cannot be opened"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/x"], 2, "cannot be opened"),
        (["--storage", "nonsense"], 2, "--storage sqlite:///FILE.db"),
    ],
)
def test_wrong_input_is_named(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--device" not in arguments and "--gpu" not in arguments:
        arguments = [*arguments, "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert "secret" not in error
    assert not (tmp_path / "run").exists() or "--storage" in arguments


@pytest.mark.parametrize(
    "arguments", [["--gpu", "0", "--device", "cpu"], ["--trials", "0"], ["--time", "soon"], ["--x"]]
)
def test_wrong_flags_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "minutes"), [("90s", 1.5), ("30m", 30), ("2h", 120), ("1h30m", 90), ("5", 5)])
def test_durations(text: str, minutes: float) -> None:
    assert duration(text) == minutes


def start(tiny: Path, run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vnas.search", "--study", str(tiny), "--device", "cpu", "--out", str(run_dir)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_line(process: subprocess.Popen[str], start_of_line: str) -> list[str]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(start_of_line):
            return seen
    raise AssertionError(f"no line {start_of_line!r} in:\n{''.join(seen)}")


def worker_of(driver: int) -> int:
    """The process that trains for a driver."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(driver):
                command = (path.parent / "cmdline").read_bytes()
                if b"spawn_main" in command:
                    return int(path.parent.name)
    raise AssertionError("there is no worker")


def completed(run_dir: Path) -> dict[int, tuple[object, object]]:
    return {
        trial.number: (trial.values, trial.datetime_complete)
        for trial in trials_of(run_dir)
        if trial.state == optuna.trial.TrialState.COMPLETE
    }


def test_kill_9_loses_and_repeats_no_completed_trial(tiny: Path, run: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(tiny, run_dir, "--trials", "500", "--set", "training.epochs=2")
    wait_for_line(process, "trial   2")
    time.sleep(0.15)  # somewhere within trial 3
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = completed(run_dir)
    assert len(before) >= 3
    left = [trial for trial in trials_of(run_dir) if trial.state == optuna.trial.TrialState.RUNNING]
    wanted = len(before) + 2
    assert run("--trials", str(wanted), "--set", "training.epochs=2", "--resume") == 0

    trials = trials_of(run_dir)
    assert {number: completed(run_dir)[number] for number in before} == before
    trained = [trial for trial in trials if "training" in trial.user_attrs and "interrupted" not in trial.user_attrs]
    assert len({trial.user_attrs["candidate"] for trial in trained}) == len(trained) == wanted
    for trial in left:
        later = [other for other in trials if other.number > trial.number]
        again = [other for other in later if trial.params == other.params]
        if "candidate" not in trial.user_attrs:  # killed in the middle of its draw: what it had drawn is drawn again
            again = [other for other in later if trial.params.items() <= other.params.items()]
        assert trials[trial.number].state == optuna.trial.TrialState.FAIL
        assert again or not trial.params
    front = pd.read_csv(run_dir / "front.csv")
    assert front["weights"].notna().any()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_and_says_how_to_resume(signum: signal.Signals, tiny: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(tiny, run_dir, "--trials", "500")
    wait_for_line(process, "trial   0")
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert f"-m vnas.search --device cpu --study {tiny} --trials 500 --out {run_dir} --resume" in output
    states = {trial.state for trial in trials_of(run_dir)}
    assert optuna.trial.TrialState.RUNNING not in states
    assert json.dumps(sorted(completed(run_dir)))  # readable by another process at once


def test_a_second_run_in_the_same_directory_is_refused(
    tiny: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tiny, tmp_path / "run", "--trials", "500")
    try:
        wait_for_line(process, "trial   0")
        assert run("--trials", "500", "--resume") == 2
        assert "another run is at work" in capsys.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the worker in /proc")
def test_a_worker_that_is_killed_costs_a_training_and_no_trial(tiny: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(tiny, run_dir, "--workers", "1", "--trials", "3", "--set", "training.epochs=30")
    wait_for_line(process, "trial   0")
    time.sleep(0.3)  # somewhere within trial 1
    os.kill(worker_of(process.pid), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "interrupted: the worker on cpu, worker 1 (process" in output
    trials = trials_of(run_dir)
    (left,) = [trial for trial in trials if trial.user_attrs.get("interrupted")]
    (again,) = [trial for trial in trials if trial.user_attrs.get("recovers") == left.number]
    assert left.state == optuna.trial.TrialState.FAIL
    assert (again.state, again.params) == (optuna.trial.TrialState.COMPLETE, left.params)
    assert again.user_attrs["attempt"] == 2
    assert len({trial.user_attrs["candidate"] for trial in trials if trial.values}) == 3
    assert not (run_dir / "checkpoints").exists()
