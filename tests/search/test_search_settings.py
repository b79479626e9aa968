"""Which study, storage and directory the flags name; runs that share a storage; output that nobody reads."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch

from vnas import evaluate
from vnas.config import study_from_toml
from vnas.profiler import Measurement, ReplayTimer, measure
from vnas.search import front
from vnas.search.cli import main, parser
from vnas.search.command import resume_command
from vnas.search.settings import settle, sqlite_url

Run = Callable[..., int]


def test_a_study_of_a_shared_storage_goes_into_its_own_directory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = sqlite_url(tmp_path / "shared.db")
    optuna.create_study(storage=url, study_name="a colleague's")
    start = ["--device", "cpu", "--workers", "0", "--storage", url]
    assert main([*start, "--study", str(tiny), "--trials", "1"]) == 0
    assert main([*start, "--resume", "--trials", "2"]) == 0
    assert (tmp_path / "reports" / "tiny" / "report.html").is_file()
    assert not (tmp_path / "reports" / "quickstart").exists()
    assert "a colleague's" in optuna.get_all_study_names(url)

    assert main([*start, "--study", str(tiny), "--set", "name=other", "--trials", "1"]) == 0
    capsys.readouterr()
    assert main([*start, "--resume", "--trials", "2"]) == 2
    assert "several studies (other, tiny); say which with --study NAME" in capsys.readouterr().err
    assert main([*start, "--resume", "--study", "other", "--trials", "2"]) == 0
    assert (tmp_path / "reports" / "other" / "report.html").is_file()


def test_a_resume_cannot_rename(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trials", "1") == 0
    assert main(["--device", "cpu", "--out", str(tmp_path / "run"), "--resume", "--set", "name=foo"]) == 2
    assert "study 'tiny' cannot be resumed as 'foo'" in capsys.readouterr().err


def test_a_directory_of_another_study_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trials", "1") == 0
    assert run("--trials", "1", "--set", "name=other") == 2
    assert "is the run directory of study 'tiny', not of 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_way_is_named(below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--device", "cpu", "--out", str(tmp_path / "file" / below)]) == 2
    assert f"{tmp_path / 'file'} is a file; give a directory" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", "/proc/vnas"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "/proc/vnas" in error


def test_odd_directory_names_work(tiny: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b?c#d%20e"
    arguments = ["--study", str(tiny), "--device", "cpu", "--workers", "0", "--out", str(odd)]
    assert main([*arguments, "--trials", "1"]) == 0
    assert main([*arguments, "--trials", "2", "--resume"]) == 0
    assert {"study.db", "report.html"} <= {path.name for path in odd.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd.name, "tiny.toml"]


def test_the_resume_command_runs_and_hides_a_password(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert run("--trials", "1") == 0
    out = str(tmp_path / "run")
    flags = ["--study", str(tiny), "--device", "cpu", "--workers", "0", "--out", out, "--trials", "2", "--resume"]
    args = parser().parse_args(flags)
    settings = settle(args)
    assert settings.exists
    command = resume_command(args, settings)
    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0
    args.storage = "postgresql://me:secret@host/db"
    assert "secret" not in resume_command(args, settings)


def test_an_output_that_lacks_the_letters_or_is_closed(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vnas.search", "--study", str(tiny), "--device", "cpu", "--trials", "2"]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--out", str(tmp_path / "ascii")], env=plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shell = " ".join([*command, "--out", str(tmp_path / "closed")])
    done = subprocess.run(
        ["bash", "-c", f"{shell} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


class Boom(BaseException):
    """Ends a run like a kill: nothing catches it."""


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies that depend on the net alone, so that two runs find the same front."""

    def fixed(net: torch.nn.Module, *inputs: object, **named: object) -> Measurement:
        latency_ms = 1e-3 * sum(parameter.numel() for parameter in net.parameters())
        return measure(lambda: None, timer=ReplayTimer(itertools.repeat(latency_ms)), min_seconds=0.0)

    monkeypatch.setattr("vnas.evaluate.measure", fixed)


UNDISTURBED: list[list[tuple[object, ...]]] = []


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("point", ["save_weights", "set_front_result", "replace", "rmtree", "measure_net"])
@pytest.mark.parametrize("after", [0, 2])
def test_the_front_survives_a_kill_at_any_point(
    point: str, after: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not UNDISTURBED:
        assert run() == 0
        UNDISTURBED.append(front_of(tmp_path / "run"))
        shutil.rmtree(tmp_path / "run")
    homes = {
        "save_weights": evaluate,
        "measure_net": front,
        "set_front_result": front,
        "replace": Path,
        "rmtree": shutil,
    }
    original = getattr(homes[point], point)
    calls = 0

    def once(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += point != "replace" or "weights" in str(arguments[1])
        if calls == after + 1:
            raise Boom
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(homes[point], point, once)
        try:
            run()
            killed = False
        except Boom:
            killed = True
    assert killed or calls <= after  # a short front has fewer calls
    assert run("--resume") == 0
    assert front_of(tmp_path / "run") == UNDISTURBED[0]
    assert not list((tmp_path / "run").glob("nets/*/seeds"))


@pytest.mark.usefixtures("steady")
def test_weights_that_were_removed_are_trained_again(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    before = front_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "nets")
    assert run("--resume") == 0
    assert front_of(tmp_path / "run") == before
    rows = pd.read_csv(tmp_path / "run" / "front.csv")
    kept = rows["weights"].dropna()
    assert len(kept) == 2
    assert all((tmp_path / "run" / path).is_file() for path in kept)


def front_of(run_dir: Path) -> list[tuple[object, ...]]:
    """What does not depend on the clock: accuracies of every run and which one was kept, by candidate."""
    name = study_from_toml((run_dir / "study.toml").read_text()).name
    study = optuna.load_study(storage=sqlite_url(run_dir / "study.db"), study_name=name)
    return sorted(
        (key, value["candidate"], value["val_top1"], value["test_top1"], value["chosen"])
        for key, value in study.user_attrs.items()
        if key.startswith("front/") and "test_top1" in value
    )
