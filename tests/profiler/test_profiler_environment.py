from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch

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
