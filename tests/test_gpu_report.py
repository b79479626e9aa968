"""The driver of ``make gpu-report``, with a GPU that is a few words and steps that are a few lines."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks import gpu_report
from benchmarks.gpu_steps import running
from benchmarks.gpu_steps.card import Gpu
from benchmarks.gpu_steps.known_table import correlations, markdown
from benchmarks.gpu_steps.paper import PAPER
from benchmarks.gpu_steps.summary import Step, slug
from vnas.profiler import measure
from vnas.profiler.timers import ReplayTimer

ROOT = Path(__file__).parents[1]
CARD = Gpu("A Card 80GB", "uuid", {"device_kind": "A Card 80GB", "driver": "580.1", "cuda": None})


def python(name: str, code: str, minutes: float = 1.0) -> Step:
    return Step(name, minutes, ("{python}", "-c", textwrap.dedent(code), "{out}", "{gpu}", "{seconds}"))


def run(tmp_path: Path, *steps: Step, argv: tuple[str, ...] = ()) -> int:
    return gpu_report.main(
        ["--out", str(tmp_path), *argv], steps=steps, probe=lambda index: CARD, clocks=lambda uuid: f"cool {uuid}"
    )


def outcomes(tmp_path: Path) -> dict[str, str]:
    summary = json.loads((tmp_path / "summary.json").read_text())
    return {step["name"]: step["outcome"] for step in summary["steps"]}


def test_steps_run_in_order_and_each_finds_the_results_of_those_before_it(tmp_path: Path) -> None:
    look = """
        import json, pathlib, sys
        out = pathlib.Path(sys.argv[1])
        print([(s["name"], s["outcome"]) for s in json.loads((out / "summary.json").read_text())["steps"]])
        assert "| waiting |" in (out / "SUMMARY.md").read_text() or {last}
    """
    assert run(tmp_path, python("one", look.replace("{last}", "0")), python("two", look.replace("{last}", "1"))) == 0
    assert (tmp_path / "one.log").read_text() == "[('one', 'running'), ('two', 'waiting')]\n"
    assert (tmp_path / "two.log").read_text() == "[('one', 'passed'), ('two', 'running')]\n"
    summary = (tmp_path / "SUMMARY.md").read_text()
    assert summary.startswith("# A Card 80GB\n")
    assert "| driver | 580.1 |" in summary
    assert "| cuda |" not in summary
    assert "| cool uuid | cool uuid |" in summary
    assert not list(tmp_path.glob("*.part"))


def test_a_failing_step_does_not_stop_the_others_and_fails_the_whole(tmp_path: Path) -> None:
    assert run(tmp_path, python("bad", "print('why', flush=True); raise SystemExit(7)"), python("good", "pass")) == 1
    assert outcomes(tmp_path) == {"bad": "failed", "good": "passed"}
    assert (tmp_path / "bad.log").read_text() == "why\n"
    assert json.loads((tmp_path / "summary.json").read_text())["steps"][0]["exit_code"] == 7


def test_what_cannot_be_started_is_a_failed_step(tmp_path: Path) -> None:
    assert run(tmp_path, Step("missing", 1.0, ("{out}/no-such-program",)), python("good", "pass")) == 1
    assert outcomes(tmp_path) == {"missing": "failed", "good": "passed"}
    assert "could not be started" in (tmp_path / "missing.log").read_text()


CHILD = """
import pathlib, sys, time
time.sleep(60)
(pathlib.Path(sys.argv[1]) / "slept").touch()
"""


def was_ended(folder: Path) -> bool:
    """Whether the process whose number is in ``child`` has ended before it came to the end of its sleep."""
    pid = int((folder / "child").read_text())
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            state = "Z"
        if state == "Z":
            return not (folder / "slept").exists()
        time.sleep(0.01)


def test_a_step_is_cut_at_its_deadline_with_all_its_processes_and_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(gpu_report, "LEAST_SECONDS", 0.0)
    stuck = f"""
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
        (pathlib.Path(sys.argv[1]) / "child").write_text(str(child.pid))
        print("half done", flush=True)
        time.sleep(60)
        (pathlib.Path(sys.argv[1]) / "slept").touch()
    """
    assert run(tmp_path, python("stuck", stuck, 0.5 / 60), python("next", "pass", 1.0)) == 1
    assert not (tmp_path / "slept").exists()
    assert outcomes(tmp_path) == {"stuck": "cut", "next": "passed"}
    log = (tmp_path / "stuck.log").read_text()
    assert log.startswith("half done\n")
    assert "cut: not done after" in log
    assert was_ended(tmp_path)


def test_a_step_that_is_cut_may_still_write_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "LEAST_SECONDS", 0.0)
    slow = """
        import pathlib, sys, time
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (pathlib.Path(sys.argv[1]) / "report").write_text("so far")
    """
    assert run(tmp_path, python("slow", slow, 0.5 / 60)) == 1
    assert (tmp_path / "report").read_text() == "so far"


def test_what_a_step_leaves_running_ends_with_it(tmp_path: Path) -> None:
    leaving = f"""
        import pathlib, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
        (pathlib.Path(sys.argv[1]) / "child").write_text(str(child.pid))
    """
    assert run(tmp_path, python("leaving", leaving)) == 0
    assert was_ended(tmp_path)


def test_time_that_a_step_leaves_is_the_next_ones(tmp_path: Path) -> None:
    assert run(tmp_path, python("quick", "pass", 1.0), python("long", "import sys; print(sys.argv[3])", 2.0)) == 0
    assert 170 < float((tmp_path / "long.log").read_text()) <= 180


def test_a_step_without_time_is_not_run(tmp_path: Path) -> None:
    assert run(tmp_path, python("none", "pass", 0.01), python("some", "pass", 1.0)) == 1
    assert outcomes(tmp_path) == {"none": "not run", "some": "passed"}


def test_only_one_step_with_minutes_of_its_own(tmp_path: Path) -> None:
    show = python("show", "import sys; print(*sys.argv[2:])", 1.0)
    argv = ("--only", "show", "--minutes", "2", "--gpu", "3")
    assert run(tmp_path, python("other", "raise SystemExit(1)"), show, argv=argv) == 0
    assert outcomes(tmp_path) == {"show": "passed"}
    gpu, seconds = (tmp_path / "show.log").read_text().split()
    assert gpu == "3"
    assert 110 < float(seconds) <= 120


@pytest.mark.parametrize(
    ("given", "index", "visible"),
    [
        (None, 0, "0"),
        (None, 1, "1"),
        ("", 1, "1"),
        ("3", 0, "3"),
        ("2,0", 1, "0"),
        ("GPU-aaaa, GPU-bbbb", 1, "GPU-bbbb"),
        ("MIG-cccc", 0, "MIG-cccc"),
    ],
)
def test_a_step_may_see_the_chosen_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, index: int, visible: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    show = Step(
        "show",
        1.0,
        (
            "env",
            "CUDA_VISIBLE_DEVICES={visible}",
            "{python}",
            "-c",
            "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])",
        ),
    )
    assert run(tmp_path, show, argv=("--gpu", str(index))) == 0
    assert (tmp_path / "show.log").read_text() == f"{visible}\n"


def test_every_real_step_is_told_which_gpu() -> None:
    for step in gpu_report.STEPS:
        assert any("{gpu}" in word or word == "CUDA_VISIBLE_DEVICES={visible}" for word in step.command), step.name


def test_without_a_gpu_it_says_so_and_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = gpu_report.main(["--out", str(tmp_path / "out")], steps=(), probe=lambda index: "there is no such GPU")
    assert code == 3
    assert "there is no such GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--minutes", "0"], ["--minutes", "nan"]])
def test_minutes_must_be_more_than_0(argv: list[str]) -> None:
    assert gpu_report.main(argv, probe=lambda index: CARD) == 2


def test_the_real_steps_fit_below_9_minutes_and_name_modules_that_are_there() -> None:
    assert sum(step.minutes for step in gpu_report.STEPS) * 60 + running.GRACE_SECONDS < 9 * 60
    assert [step.name for step in gpu_report.STEPS][:3] == ["tests", "known_nets", "repeatability"]
    filled = {"python": "python", "gpu": "0", "visible": "0", "out": "OUT", "seconds": "60", "minutes": "1"}
    for step in gpu_report.STEPS:
        words = [word.format_map(filled) for word in step.command]
        assert not any("{" in word for word in words)
        for word in words:
            if word.startswith("benchmarks."):
                assert (ROOT / word.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "nvidia-a100-sxm4-40gb-mig-1g-5gb"),
        ("../..", "gpu"),
    ],
)
def test_the_folder_is_named_after_the_gpu(name: str, expected: str) -> None:
    assert slug(name) == expected


# The paper's table


def test_every_net_of_the_papers_table_is_known() -> None:
    from vnas.profiler.targets import find_target

    assert len(PAPER) == len({net.name for net in PAPER}) == 31
    for net in PAPER:
        assert find_target(net.net).name == net.net


def test_rank_correlations_by_hand() -> None:
    assert correlations([(1, 10), (2, 20), (3, 30)]) == pytest.approx((1.0, 1.0))
    # Ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 * 2 / (4 * 15), tau = (5 - 1) / 6.
    assert correlations([(1, 1), (2, 3), (3, 2), (4, 4)]) == pytest.approx((0.8, 4 / 6))
    assert correlations([(1, 1), (2, 2)]) is None
    assert correlations([(1, 5), (2, 5), (3, 5)]) is None


def test_the_table_has_the_papers_figure_beside_ours_and_marks_what_is_not_sound() -> None:
    def found(ms: float, **changes: object) -> object:
        result = measure(lambda: None, timer=ReplayTimer([ms] * 200), min_seconds=0.0, max_warmup_seconds=0.0)
        return dataclasses.replace(result, **changes)  # type: ignore[arg-type]

    nets = PAPER[:3]
    by_net = {
        "VanillaNet-5": found(1.0, precision="tf32", host_ms=1.5, graph_ms=0.5, launch_bound=True),
        "VanillaNet-6": found(3.0, precision="tf32", noise_ok=False),
        "VanillaNet-7": found(2.0, precision="tf32", valid=False),
    }
    page = markdown(nets, {("eager", None): by_net}, ["X, eager fp16: why"])  # type: ignore[dict-item]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows[0] == (
        "| net | depth | GMACs | A100, paper | eager tf32 (as set) | host end to end "
        "| eager tf32 (as set), graph replay |"
    )
    assert rows[2] == "| VanillaNet-5 | 5 | 5.17 | 1.61 | 1.000 L | 1.500 | 0.500 |"
    assert rows[3] == "| VanillaNet-6 | 6 | 5.99 | 2.01 | 3.000* | - | - |"
    assert rows[4] == "| VanillaNet-7 | 7 | 6.9 | 2.27 | 2.000! | - | - |"
    # Ranks 1 2 3 against 1 3 2: rho = 1 - 6 * 2 / (3 * 8), tau = (2 - 1) / 3.
    assert "| eager tf32 (as set), events, all | 3 | 0.500 | 0.333 |" in rows
    assert page.endswith("## Not measured\n\n- X, eager fp16: why\n")


# The machine with the GPU lacks these


BARE = """
import sys
from importlib.machinery import PathFinder

MISSING = {"optuna", "pydantic", "pydantic_core", "tomli_w", "sqlalchemy", "xdist", "onnx", "onnxruntime", "openvino"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else super().find_spec(name, path, target)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""

CHECK = """
import importlib, pathlib, pkgutil
import vnas.nets, vnas.profiler
for found in pkgutil.walk_packages(vnas.profiler.__path__, "vnas.profiler."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
for name in vnas.profiler.__all__:
    getattr(vnas.profiler, name)
for path in sorted(pathlib.Path("benchmarks/gpu_steps").glob("*.py")):
    importlib.import_module(f"benchmarks.gpu_steps.{path.stem}")
import benchmarks.gpu_report
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]))
"""


def test_all_of_it_imports_without_the_packages_that_the_gpu_machine_lacks() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BARE + CHECK], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_gpu_profiler.py" in done.stdout
    assert "error" not in done.stdout.lower()
