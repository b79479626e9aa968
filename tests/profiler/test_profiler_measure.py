from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nvml_processes import run_python

import vnas.profiler
from vnas.errors import DeviceError, MeasurementError, UsageError
from vnas.profiler import Measurement, Progress, ReplayTimer, measure

QUICK = {"min_samples": 10, "min_seconds": 0.0, "max_seconds": 0.3, "max_warmup_seconds": 0.1}


def quick(callable: object, /, *inputs: object, **more: object) -> Measurement:
    return measure(callable, *inputs, **{**QUICK, **more})  # type: ignore[arg-type]


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()


def test_a_sleep_takes_as_long_as_it_sleeps() -> None:
    result = quick(time.sleep, 0.004)
    assert min(result.samples_ms) >= 4.0
    assert result.interval_ms[0] <= result.median_ms <= result.interval_ms[1]
    assert result.timer == "perf_counter_ns"
    assert (result.precision, result.layout, result.batch) == (None, None, None)


def test_a_module_on_the_cpu() -> None:
    result = quick(net(), torch.zeros(2, 3, 16, 16))
    assert result.n >= 10
    assert result.device == "cpu"
    assert result.runtime == "eager"
    assert result.environment.device_type == "cpu"
    assert (result.precision, result.layout, result.batch) == ("float32", "contiguous", 2)
    assert result.input_shapes == ((2, 3, 16, 16),)
    assert result.input_dtypes == ("float32",)
    assert result.warmup_iterations >= 1
    for absent in (result.host_ms, result.enqueue_ms, result.graph_ms, result.launch_bound, result.throttled):
        assert absent is None
    assert result.energy_mj is None
    assert result.processes == 1
    assert any(note.startswith("energy_mj is None") for note in result.notes)
    assert any(note.startswith("one process") for note in result.notes)
    assert Measurement.from_dict(result.to_dict()) == result


def test_the_defaults_are_those_of_the_protocol() -> None:
    replayed = measure(lambda: None, timer=ReplayTimer(itertools.repeat(16.0)))
    assert (replayed.n, replayed.stop_reason, replayed.noise_ok) == (50, "target met", True)
    assert replayed.median_ms == 16.0
    assert replayed.interval_ms == (16.0, 16.0)
    assert replayed.interval_level == pytest.approx(0.9672, abs=5e-5)
    assert replayed.target_relative == 0.01
    assert replayed.warmup_seconds == pytest.approx(0.224)  # two windows of a tenth of a second: 7 calls each


def test_a_time_limit_needs_no_waiting_on_a_replayed_clock() -> None:
    result = measure(lambda: None, timer=ReplayTimer(itertools.cycle([50.0, 100.0])))
    assert result.stop_reason == "time limit"
    assert not result.noise_ok
    assert sum(result.samples_ms) >= 15_000


def test_layouts_and_types_are_recorded() -> None:
    last = torch.zeros(1, 3, 8, 8).to(memory_format=torch.channels_last)
    assert quick(lambda image: image, last).layout == "channels_last"
    assert quick(lambda image: image, torch.zeros(1, 3, 8, 16)[..., ::2]).layout == "strided"
    assert quick(lambda image: image, torch.zeros(4, dtype=torch.bfloat16)).precision == "bfloat16"
    assert quick(net().double().forward, torch.zeros(1, 3, 8, 8).double()).precision == "float64"
    embedding = torch.nn.Embedding(4, 2).eval()
    result = quick(embedding, torch.tensor([[1, 2]]))
    assert (result.precision, result.input_dtypes, result.layout) == ("float32", ("int64",), None)


def test_it_runs_under_inference_mode_and_leaves_it() -> None:
    seen: set[bool] = set()
    quick(lambda: seen.add(torch.is_inference_mode_enabled()))
    assert seen == {True}
    assert not torch.is_inference_mode_enabled()


def test_threads_are_set_recorded_and_restored() -> None:
    before = torch.get_num_threads()
    seen: set[int] = set()
    result = quick(lambda: seen.add(torch.get_num_threads()), threads=before + 1)
    assert seen == {before + 1}
    assert result.environment.threads == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(MeasurementError):
        quick(lambda: 1 / 0, threads=before + 1)
    assert torch.get_num_threads() == before


def test_a_module_in_training_mode_is_noted() -> None:
    assert any("training mode" in note for note in quick(net().train(), torch.zeros(1, 3, 8, 8)).notes)
    assert not any("training mode" in note for note in quick(net(), torch.zeros(1, 3, 8, 8)).notes)


def test_a_callable_that_raises() -> None:
    with pytest.raises(MeasurementError, match="check: the callable raised RuntimeError") as got:
        quick(net(), torch.zeros(1, 4, 8, 8))
    assert isinstance(got.value.__cause__, RuntimeError)


def test_a_callable_that_raises_late() -> None:
    calls = itertools.count()

    def tired() -> None:
        if next(calls) == 30:
            raise ValueError("enough")

    with pytest.raises(MeasurementError, match="sample: the callable raised ValueError: enough"):
        measure(tired, timer=ReplayTimer(itertools.repeat(30.0)))


def test_an_interrupt_passes_through() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(interrupted)


def test_what_lies_on_another_device_is_said_before_anything_runs() -> None:
    with pytest.raises(MeasurementError, match=r"input 0 is on meta, the measurement on cpu; pass input.to\('cpu'\)"):
        quick(net(), torch.zeros(1, 3, 8, 8, device="meta"))
    with pytest.raises(MeasurementError, match=r"0.weight of the module is on meta"):
        quick(net().to("meta"), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"runtime": "egaer"}, UsageError, r"runtime 'egaer' is not known; allowed are eager\. Did you mean 'eager'\?"),
        ({"threads": 0}, UsageError, "threads = 0; it must be at least 1"),
        ({"target_relative": -1.0}, UsageError, "target_relative = -1.0"),
        ({"min_seconds": 1.0}, UsageError, r"min_seconds = 1.0; it must be at most max_seconds = 0.3"),
        ({"max_warmup_seconds": -1.0}, UsageError, "max_warmup_seconds = -1.0"),
        ({"device": "cuda:63"}, DeviceError, "device cuda:63: there is no such GPU"),
    ],
)
def test_arguments_that_cannot_be(more: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(lambda: None, **more)


def test_progress_is_told() -> None:
    told: list[Progress] = []
    measure(lambda: None, timer=ReplayTimer(itertools.repeat(30.0)), progress=told.append)
    assert [progress.phase for progress in told][:3] == ["check", "warm up", "sample"]
    assert told[2].median_ms == 30.0


def test_every_public_name_is_there() -> None:
    for name in vnas.profiler.__all__:
        assert getattr(vnas.profiler, name).__name__ == name
        assert name in dir(vnas.profiler)
    with pytest.raises(AttributeError, match="no attribute 'mesaure'"):
        vnas.profiler.mesaure  # noqa: B018


def test_the_package_imports_nothing_else_of_vnas_and_no_torch_before_it_is_used() -> None:
    script = """
import json, sys
import vnas.profiler
before = "torch" in sys.modules
from vnas.profiler import measure, resolve_device
ours = sorted(name for name in sys.modules if name.startswith("vnas"))
foreign = [name for name in ours if not name.startswith("vnas.profiler")]
print(json.dumps([before, foreign, "pydantic" in sys.modules]))
"""
    assert run_python(script) == [False, ["vnas", "vnas.errors"], False]


def test_no_module_names_another_part_of_vnas() -> None:
    folder = Path(vnas.profiler.__path__[0])
    for path in folder.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.lstrip().startswith(("from vnas", "import vnas")):
                assert line.split()[1].startswith(("vnas.errors", "vnas.profiler")), f"{path.name}: {line}"


def test_help_needs_no_torch() -> None:
    script = """
import sys
from vnas.profiler.cli import main
try:
    main(["--help"])
except SystemExit as done:
    assert done.code == 0
assert "torch" not in sys.modules and "rich" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("python -m vnas.profiler ") >= 4
