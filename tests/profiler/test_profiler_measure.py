from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nvml_processes import run_python

import vnas.profiler
from vnas.errors import DeviceError, MeasurementError, UsageError
from vnas.profiler import Energy, Measurement, Progress, ReplayTimer, measure, rapl
from vnas.profiler.cpu_load import CpuLoad
from vnas.profiler.measuring import Job, measure_all
from vnas.profiler.notes import ENERGY_LEFT_OUT
from vnas.profiler.plan import Rules

# Ends with the tenth sample, whatever the interval is and however long that takes.
QUICK = {
    "target_relative": 1e9, "min_samples": 10, "min_seconds": 0.0, "max_seconds": 1e6, "max_warmup_seconds": 0.1,
}  # fmt: skip


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
    assert (result.precision, result.layout, result.batch) == ("fp32", "contiguous", 2)
    assert result.input_shapes == ((2, 3, 16, 16),)
    assert result.input_dtypes == ("float32",)
    assert result.warmup_iterations >= 1
    for absent in (result.host_ms, result.enqueue_ms, result.graph_ms, result.launch_bound, result.throttled):
        assert absent is None
    assert result.energy_mj is None
    assert ENERGY_LEFT_OUT in result.notes
    assert result.processes == 1
    assert result.page_faults is not None
    assert {block.process for block in result.blocks} == {0}
    assert sum(block.count for block in result.blocks) == result.n + len(result.discarded_ms)
    assert result.interval_method == "one process"
    assert result.valid
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
    assert quick(lambda image: image, torch.zeros(4, dtype=torch.bfloat16)).precision == "bf16"
    assert quick(net().double().forward, torch.zeros(1, 3, 8, 8).double()).precision == "float64"
    embedding = torch.nn.Embedding(4, 2).eval()
    result = quick(embedding, torch.tensor([[1, 2]]))
    assert (result.precision, result.input_dtypes, result.layout) == ("fp32", ("int64",), None)


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
        ({"runtime": "egaer"}, UsageError, r"runtime 'egaer' is not known; .*Did you mean 'eager'\?"),
        ({"threads": 0}, UsageError, "threads = 0; it must be at least 1"),
        ({"target_relative": -1.0}, UsageError, "target_relative = -1.0"),
        ({"min_seconds": 1e7}, UsageError, r"min_seconds = 10000000.0; it must be from 0 to max_seconds = 1e\+06"),
        ({"energy_seconds": 0.5}, UsageError, "energy_seconds = 0.5; it must be at least 1"),
        ({"precision": "fp61"}, UsageError, r"precision 'fp61' is not known; .*Did you mean 'fp16'\?"),
        ({"max_warmup_seconds": -1.0}, UsageError, "max_warmup_seconds = -1.0"),
        ({"device": "cuda:63"}, DeviceError, "device cuda:63: there is no such GPU"),
    ],
)
def test_arguments_that_cannot_be(more: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(lambda: None, **more)


def test_energy_beside_a_timer_of_the_callers_is_null_with_the_reason() -> None:
    found = measure(lambda: None, timer=ReplayTimer(itertools.repeat(16.0)), energy_seconds=1.0)
    assert found.energy is None
    assert any(note.startswith("no energy: a timer was given") for note in found.notes)


def test_the_packages_of_the_net_and_the_runtime_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(torch.nn.ReLU, "__module__", "no_such_package.nets")
    monkeypatch.setattr(torch.nn.Conv2d, "__module__", "timm.models.some")
    assert quick(net(), torch.zeros(1, 3, 8, 8)).environment.packages == {"timm": timm.__version__}
    assert quick(lambda: None).environment.packages == {}


def test_progress_is_told() -> None:
    told: list[Progress] = []
    measure(lambda: None, timer=ReplayTimer(itertools.repeat(30.0)), progress=told.append)
    assert [progress.phase for progress in told][:4] == ["prepare", "check", "warm up", "sample"]
    assert told[3].median_ms == 30.0


class Log:
    """Callables that write down who was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def job(self, name: str, fails_at: int | None = None) -> Job:
        def call() -> None:
            self.calls.append(name)
            if self.calls.count(name) == fails_at:
                raise ValueError(f"{name} is tired")

        return Job(name, call)


LONG = Rules(target_relative=1e-9, min_samples=50, max_seconds=3.0, max_warmup_seconds=0.2)


def test_several_nets_take_turns_in_shuffled_rounds() -> None:
    log = Log()
    timer = ReplayTimer(itertools.cycle([15.625, 31.25]))  # the interval never gets narrow
    told: list[Progress] = []
    jobs = [log.job("a"), log.job("b"), log.job("c")]
    found = measure_all(jobs, device="cpu", rules=LONG, timer=timer, seed=4, progress=told.append)
    turns = [progress.name for progress in told if progress.phase == "sample"]  # one report a turn
    rounds_of_three = [tuple(turns[i : i + 3]) for i in range(0, 12, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds_of_three)
    assert len(set(rounds_of_three)) > 1
    for result in found:
        assert isinstance(result, Measurement)
        # A turn is half a second or thirty calls as long as the last one: .94 s at most.
        rounds = sorted({block.round for block in result.blocks})
        assert rounds == list(range(len(rounds)))
        assert 4 <= len(rounds) <= 7


def test_a_net_that_fails_in_the_middle_leaves_the_others_their_turns() -> None:
    log = Log()
    timer = ReplayTimer(itertools.cycle([15.625, 31.25]))  # the interval never gets narrow
    jobs = [log.job("a"), log.job("b", fails_at=60), log.job("c", fails_at=1)]
    first, second, third = measure_all(jobs, device="cpu", rules=LONG, timer=timer)
    assert isinstance(first, Measurement)
    assert sum(first.samples_ms) >= 3000
    assert isinstance(second, MeasurementError)
    assert str(second) == "sample: the callable raised ValueError: b is tired"
    assert isinstance(third, MeasurementError)
    assert str(third) == "check: the callable raised ValueError: c is tired"
    assert log.calls.count("c") == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_the_pace_is_that_of_threads_that_hand_over(threads: int) -> None:
    result = quick(net(), torch.zeros(1, 3, 8, 8), threads=threads)
    assert (result.quiet_us is not None) == (threads > 1)


def test_a_net_alone_makes_no_untimed_calls_between_its_turns() -> None:
    log = Log()
    timer = ReplayTimer(itertools.cycle([15.625, 31.25]))
    (found,) = measure_all([log.job("a")], device="cpu", rules=LONG, timer=timer)
    assert isinstance(found, Measurement)
    assert len({block.round for block in found.blocks}) > 3
    # The check and the call that begins the first turn are beside the warm-up and the samples.
    assert len(log.calls) == 2 + found.warmup_iterations + found.n


def test_a_runtime_with_threads_of_its_own_is_measured_without_the_reference_operation() -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript, for the export")
    assert quick(net(), torch.zeros(1, 3, 8, 8), threads=2).quiet_us is not None
    result = quick(net(), torch.zeros(1, 3, 8, 8), runtime="onnxruntime", threads=2)
    assert result.quiet_us is None
    assert {block.pace_us for block in result.blocks} == {None}
    assert set(result.environment.packages) == {"onnx", "onnxruntime", "onnxscript"}


def test_the_device_is_locked_while_it_is_measured_and_free_afterwards() -> None:
    seen: list[bool] = []

    def is_taken() -> None:
        script = (
            "from vnas.errors import MeasurementError\nfrom vnas.profiler.lock import device_lock\n"
            "try:\n    with device_lock('cpu', timeout_seconds=0.0):\n        print('false')\n"
            "except MeasurementError:\n    print('true')\n"
        )
        seen.append(run_python(script))

    result = measure(is_taken, min_samples=1, min_seconds=0.0, max_seconds=0.1, max_warmup_seconds=0.0)
    assert result.n >= 1
    assert set(seen) == {True}
    seen.clear()
    is_taken()
    assert seen == [False]


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
    for path in folder.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.lstrip().startswith(("from vnas", "import vnas")):
                # The root package holds the version and nothing else.
                assert line.strip() == "import vnas" or line.split()[1].startswith(("vnas.errors", "vnas.profiler"))


def test_energy_on_a_cpu_is_that_of_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = Energy("rapl", 12.0, (11.0, 13.0), 10.0, (8.0, 12.0), 60.0, 5.0, 100, 1.0)
    calls: list[str] = []
    asked: list[float] = []

    def packages(call: Callable[[], object], *, window_seconds: float) -> Energy:
        calls.clear()
        call()
        asked.append(window_seconds)
        return energy

    monkeypatch.setattr(rapl, "measure", packages)
    monkeypatch.setattr(CpuLoad, "other_cpus", lambda load: 0.0)
    result = quick(lambda: calls.append("made"), energy_seconds=2.0)
    assert (calls, asked) == (["made"], [2.0])
    assert (result.energy, result.energy_mj) == (energy, 12.0)
    monkeypatch.setattr(rapl, "measure", lambda call, *, window_seconds: "no energy: no counter")
    without = quick(lambda: None, energy_seconds=2.0)
    assert without.energy is None
    assert "no energy: no counter" in without.notes


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
