from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import vnas
from vnas.profiler import environment
from vnas.profiler.environment import capture_environment, cpu_kind, model_name, physical_cores

X86 = """processor\t: 0
model name\t: Some  CPU @ 2.00GHz
physical id\t: 0
core id\t\t: 0

processor\t: 1
model name\t: Some  CPU @ 2.00GHz
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: Some  CPU @ 2.00GHz
physical id\t: 0
core id\t\t: 1

processor\t: 3
model name\t: Some  CPU @ 2.00GHz
physical id\t: 1
core id\t\t: 1
"""
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"


@pytest.mark.parametrize(
    ("text", "model", "cores"),
    [
        (X86, "Some CPU @ 2.00GHz", 3),
        (ARM, "Raspberry Pi 4 Model B Rev 1.4", None),
        ("", None, None),
        ("core id : 0\n", None, None),
    ],
)
def test_the_cpu_is_read_from_cpuinfo(text: str, model: str | None, cores: int | None) -> None:
    assert model_name(text) == model
    assert physical_cores(text) == cores


def test_what_is_captured_on_the_cpu() -> None:
    seen = capture_environment(torch.device("cpu"))
    assert seen.device_type == "cpu"
    assert seen.device_kind == cpu_kind()
    assert seen.device_kind.startswith(seen.cpu_model)
    assert seen.device_id is None
    assert seen.driver is None
    assert seen.torch == torch.__version__
    assert seen.threads == torch.get_num_threads()
    assert seen.cpu_threads >= 1
    assert datetime.datetime.fromisoformat(seen.date_utc).utcoffset() == datetime.timedelta(0)


def test_switches_are_recorded_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = capture_environment(torch.device("cpu"))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not before.cudnn_benchmark)
    torch.use_deterministic_algorithms(not before.deterministic)
    try:
        after = capture_environment(torch.device("cpu"))
    finally:
        torch.use_deterministic_algorithms(before.deterministic)
    assert after.cudnn_benchmark is not before.cudnn_benchmark
    assert after.deterministic is not before.deterministic


def test_a_precision_that_torch_refuses_to_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert capture_environment(torch.device("cpu")).matmul_precision is None


@pytest.mark.parametrize(("number", "text"), [(None, None), (8907, "8.9.7"), (92400, "9.24.0"), (90100, "9.1.0")])
def test_cudnn_versions(number: int | None, text: str | None) -> None:
    assert environment._cudnn_version(number) == text


def test_a_governor_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_CPU_ROOT", tmp_path)
    assert capture_environment(torch.device("cpu")).cpu_governor is None
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    assert capture_environment(torch.device("cpu")).cpu_governor == "powersave"


def test_one_cpu_is_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "usable_cpus", lambda: 1)
    assert cpu_kind().endswith(", 1 CPU")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "tracked").write_text("as it was")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "tracked")
    git(tmp_path, "commit", "--quiet", "--message=first")
    environment.git_revision.cache_clear()
    yield tmp_path
    environment.git_revision.cache_clear()


def test_the_revision_says_whether_tracked_files_were_changed(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    git(checkout, "tag", "--annotate", "v1", "--message=a name that the revision is not called by")
    (checkout / "untracked").write_text("")
    assert environment.git_revision(checkout) == head
    (checkout / "tracked").write_text("changed")
    assert environment.git_revision(checkout) == head  # asked for once
    environment.git_revision.cache_clear()
    assert environment.git_revision(checkout) == f"{head}+"


def test_git_variables_of_another_repository_do_not_count(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert environment.git_revision(checkout) is not None


def test_a_folder_inside_of_a_repository_is_not_its_checkout(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert environment.git_revision(checkout / "site-packages") is None


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 2.0)])
def test_without_git_or_time_there_is_no_revision(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, timeout: float, **options: object) -> None:
        assert timeout <= 2.0
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment.git_revision(checkout) is None


def test_a_broken_repository_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    environment.git_revision.cache_clear()
    assert environment.git_revision(tmp_path) is None
    environment.git_revision.cache_clear()


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, None),
        ({"PATH": "/bin", "LD_PRELOAD": "", "MALLOC_CONF": ""}, None),
        (
            {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_THRESHOLD_": "1073741824"},
            "MALLOC_MMAP_THRESHOLD_=1073741824;MALLOC_TRIM_THRESHOLD_=2147483647",
        ),
        ({"LD_PRELOAD": "/opt/lib/libjemalloc.so.2:/opt/x/libother.so"}, "LD_PRELOAD=libjemalloc.so.2:libother.so"),
        ({"LD_PRELOAD": " /opt/a.so  /opt/b.so "}, "LD_PRELOAD=a.so:b.so"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, "GLIBC_TUNABLES=glibc.malloc.trim_threshold=1"),
        ({"GLIBC_TUNABLES": "glibc.cpu.hwcaps=x"}, None),
    ],
)
def test_what_changes_the_allocator(variables: dict[str, str], text: str | None) -> None:
    assert environment.malloc_settings(variables) == text


def test_versions_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    # onnxruntime-gpu is installed under another name than it is imported by.
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.99"))
    monkeypatch.setitem(sys.modules, "odd", SimpleNamespace(__version__=(1, 2)))
    named = ["torch", "vnas", "onnxruntime", "pytest", "odd", "no_such_package", "__main__", ""]
    assert environment.versions(named) == {"onnxruntime": "1.99", "pytest": pytest.__version__}
    assert list(environment.versions(["pytest", "onnxruntime"])) == ["onnxruntime", "pytest"]
    assert capture_environment(torch.device("cpu"), packages=["pytest"]).packages == {"pytest": pytest.__version__}


def test_the_code_and_the_process_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setattr(environment, "git_revision", lambda root: f"revision of {root}")
    seen = capture_environment(torch.device("cpu"))
    assert seen.vnas == vnas.__version__
    assert seen.revision == f"revision of {Path(vnas.__file__).parents[1]}"
    assert seen.interop_threads == torch.get_num_interop_threads()
    assert "MALLOC_ARENA_MAX=1" in (seen.malloc or "")
