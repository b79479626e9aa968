"""The profiler on a real GPU: pytest -m gpu."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vnas.errors import DeviceError, MeasurementError
from vnas.profiler import Measurement, describe_devices, measure, resolve_device
from vnas.profiler.devices import cuda_uuid
from vnas.profiler.nvml import open_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda", 0)


def matmul_chain(size: int, count: int) -> tuple[torch.nn.Module, torch.Tensor]:
    layers = [torch.nn.Linear(size, size, bias=False) for _ in range(count)]
    net = torch.nn.Sequential(*layers).to(DEVICE).eval()
    return net, torch.randn(size, size, device=DEVICE)


@pytest.fixture(scope="module")
def long_call() -> Measurement:
    """Bound by its kernels: milliseconds of matrix products behind eight launches."""
    net, inputs = matmul_chain(4096, 8)
    return measure(net, inputs, device=DEVICE, max_seconds=5.0)


def test_all_three_times_are_there_and_agree_where_kernels_dominate(long_call: Measurement) -> None:
    assert long_call.timer == "cuda events"
    assert long_call.host_ms is not None
    assert long_call.graph_ms is not None
    assert long_call.launch_bound is False
    assert long_call.host_ms == pytest.approx(long_call.median_ms, rel=0.1)
    assert long_call.graph_ms == pytest.approx(long_call.median_ms, rel=0.1)
    assert long_call.enqueue_ms is not None
    assert long_call.enqueue_ms < long_call.median_ms
    assert Measurement.from_dict(long_call.to_dict()) == long_call


def test_many_small_kernels_are_launch_bound() -> None:
    layers = [torch.nn.Conv2d(4, 4, 1) for _ in range(100)]
    net = torch.nn.Sequential(*layers).to(DEVICE).eval()
    result = measure(net, torch.zeros(1, 4, 8, 8, device=DEVICE), device=DEVICE, max_seconds=5.0)
    assert result.launch_bound is True
    assert result.graph_ms is not None
    assert result.graph_ms < result.median_ms


def test_the_device_is_found_by_its_uuid(long_call: Measurement) -> None:
    uuid = cuda_uuid(0)
    environment = long_call.environment
    assert environment.device_kind == torch.cuda.get_device_name(0)
    assert environment.device_id is not None
    assert environment.device_id.endswith(uuid)
    assert uuid in describe_devices()
    if environment.driver is None:
        assert any("NVML" in note or "nvidia-ml-py" in note for note in long_call.notes)
        pytest.skip("NVML does not answer on this machine")
    with open_gpu(uuid) as gpu:
        total = gpu.snapshot().memory_total_mib
    if total is not None:
        # CUDA leaves out what the driver reserves.
        assert total == pytest.approx(torch.cuda.get_device_properties(0).total_memory / 2**20, rel=0.1)


def test_telemetry_brackets_the_samples(long_call: Measurement) -> None:
    assert long_call.telemetry[0].full
    assert long_call.telemetry[-1].full
    clocks = [look.sm_clock_mhz for look in long_call.telemetry if look.sm_clock_mhz is not None]
    limit = long_call.telemetry[0].sm_clock_max_mhz
    if clocks and limit is not None:
        assert max(clocks) <= limit


def test_graph_replay_agrees_with_triton() -> None:
    testing = pytest.importorskip("triton.testing", reason="needs triton")
    net, inputs = matmul_chain(2048, 20)
    ours = measure(net, inputs, device=DEVICE, max_seconds=5.0)
    with torch.inference_mode():
        theirs = testing.do_bench_cudagraph(lambda: net(inputs), rep=500, return_mode="median")
    assert ours.graph_ms == pytest.approx(theirs, rel=0.02)


def test_what_cannot_be_captured_has_no_graph_time_and_the_gpu_still_works() -> None:
    def waits(values: torch.Tensor) -> float:
        return float(values.sum().item())

    values = torch.ones(1024, device=DEVICE)
    result = measure(waits, values, device=DEVICE, max_seconds=1.0)
    assert result.graph_ms is None
    assert any(note.startswith("no graph replay time: ") for note in result.notes)
    assert waits(values) == 1024.0


def test_work_that_returns_early_is_timed_to_its_end() -> None:
    matrix = torch.randn(4096, 4096, device=DEVICE)
    result = measure(lambda: matrix @ matrix, device=DEVICE, max_seconds=2.0)
    assert result.enqueue_ms is not None
    assert result.median_ms > result.enqueue_ms
    assert statistics.median(result.host_samples_ms) >= 0.9 * result.median_ms


@pytest.mark.parametrize("joined", [False, True])
def test_work_on_another_stream_is_valid_only_where_torchs_own_waits_for_it(joined: bool) -> None:
    matrix, product = torch.randn(4096, 4096, device=DEVICE), torch.empty(4096, 4096, device=DEVICE)
    other = torch.cuda.Stream(DEVICE)

    def call() -> None:
        own = torch.cuda.current_stream(DEVICE)
        other.wait_stream(own)
        with torch.cuda.stream(other):
            for _ in range(4):
                torch.matmul(matrix, matrix, out=product)
        if joined:
            own.wait_stream(other)

    result = measure(call, device=DEVICE, max_seconds=2.0)
    assert result.host_ms is not None
    assert result.valid is joined
    assert any(note.startswith("INVALID: the call does work that the events") for note in result.notes) is not joined
    if joined:
        assert result.median_ms == pytest.approx(result.host_ms, rel=0.1)
    else:
        assert result.median_ms < 0.5 * result.host_ms


def test_memory_that_runs_out_is_told_from_other_failures() -> None:
    from vnas.profiler.runtimes.failures import memory_ran_out

    total = torch.cuda.get_device_properties(DEVICE).total_memory
    with pytest.raises(MeasurementError, match="out of memory") as raised:
        measure(lambda: torch.empty(2 * total, dtype=torch.uint8, device=DEVICE), device=DEVICE)
    assert memory_ran_out(raised.value)


def test_inputs_on_the_cpu_are_refused() -> None:
    with pytest.raises(MeasurementError, match="input 0 is on cpu, the measurement on cuda:0"):
        measure(torch.relu, torch.zeros(2), device=DEVICE)


def test_an_index_that_does_not_exist() -> None:
    with pytest.raises(DeviceError, match=cuda_uuid(0)):
        resolve_device(gpu=torch.cuda.device_count())


# Runtimes and precisions


def small_net() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10),
    )  # fmt: skip
    return net.to(DEVICE).eval(), torch.randn(1, 3, 64, 64, device=DEVICE)


def is_ampere_or_later() -> bool:
    return torch.cuda.get_device_capability(DEVICE) >= (8, 0)


ERROR_BOUND = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("runtime", ["eager", "channels_last", "cuda_graph"])
def test_every_runtime_in_every_precision_answers_nearly_as_fp32_does(runtime: str, precision: str) -> None:
    if precision in ("tf32", "bf16") and not is_ampere_or_later():
        pytest.skip(f"{precision} needs Ampere or later")
    net, image = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = measure(
        net, image, device=DEVICE, runtime=runtime, precision=precision,
        min_seconds=0.1, max_seconds=0.4, max_warmup_seconds=0.3,
    )  # fmt: skip
    assert (result.runtime, result.precision) == (runtime, precision)
    assert result.layout == ("channels_last" if runtime == "channels_last" else "contiguous")
    if (runtime, precision) != ("eager", "fp32"):
        assert result.error is not None
    if result.error is not None:
        assert result.error.rms_relative < ERROR_BOUND[precision]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {value.dtype for value in net.parameters()} == {torch.float32}


def test_float32_as_torch_sets_it_is_called_tf32_where_its_convolutions_are() -> None:
    net, image = small_net()
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        conv.fp32_precision = "tf32"
        on = measure(net, image, device=DEVICE, min_seconds=0.1, max_seconds=0.3)
        conv.fp32_precision = matmul.fp32_precision = "ieee"
        off = measure(net, image, device=DEVICE, min_seconds=0.1, max_seconds=0.3)
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
    assert on.precision == ("tf32" if is_ampere_or_later() else "fp32")
    assert off.precision == "fp32"


def test_switches_of_a_precision_are_as_before_afterwards() -> None:
    net, image = small_net()

    def settings() -> tuple[str, ...]:
        backends = torch.backends
        return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision

    before = settings()
    measure(net, image, device=DEVICE, precision="fp32", min_seconds=0.0, max_seconds=0.2)
    assert settings() == before


@pytest.mark.filterwarnings("default")  # inductor advises; its advice is none of ours
@pytest.mark.parametrize("runtime", ["compile", "compile_max_autotune"])
def test_compiled_it_answers_as_fp32_does(runtime: str) -> None:
    from vnas.errors import MissingExtraError

    pytest.importorskip("triton", reason="torch.compile on a GPU needs triton")
    net, image = small_net()
    try:
        result = measure(net, image, device=DEVICE, runtime=runtime, precision="fp32", max_seconds=0.5)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert result.error is not None
    assert result.error.rms_relative < 1e-3
    assert any("torch.compile took" in note for note in result.notes)


def test_what_a_graph_replays_is_the_graph_time_of_the_eager_call() -> None:
    net, inputs = matmul_chain(2048, 20)
    eager = measure(net, inputs, device=DEVICE, max_seconds=2.0)
    graph = measure(net, inputs, device=DEVICE, runtime="cuda_graph", max_seconds=2.0)
    assert eager.graph_ms == pytest.approx(graph.median_ms, rel=0.03)


@pytest.fixture(scope="module")
def mobilenet() -> tuple[torch.nn.Module, torch.Tensor]:
    timm = pytest.importorskip("timm")
    net = timm.create_model("mobilenetv3_large_100", pretrained=False).to(DEVICE).eval()
    return net, torch.randn(1, 3, 224, 224, device=DEVICE)


def test_a_mobilenet_at_batch_1_is_launch_bound(mobilenet: tuple[torch.nn.Module, torch.Tensor]) -> None:
    net, image = mobilenet
    result = measure(net, image, device=DEVICE, max_seconds=3.0)
    assert result.launch_bound is True
    assert result.graph_ms is not None
    assert result.graph_ms < result.median_ms


def test_a_mobilenets_graph_replay_agrees_with_triton(mobilenet: tuple[torch.nn.Module, torch.Tensor]) -> None:
    testing = pytest.importorskip("triton.testing", reason="needs triton")
    net, image = mobilenet
    ours = measure(net, image, device=DEVICE, max_seconds=3.0)
    with torch.inference_mode():
        theirs = testing.do_bench_cudagraph(lambda: net(image), rep=300, return_mode="median")
    assert ours.graph_ms == pytest.approx(theirs, rel=0.02)


# Energy, telemetry


def test_energy_is_of_a_second_or_more_and_net_is_less_than_gross() -> None:
    net, inputs = matmul_chain(4096, 8)
    result = measure(net, inputs, device=DEVICE, max_seconds=1.0, energy_seconds=1.5)
    energy = result.energy
    if energy is None:
        assert any("energy" in note for note in result.notes)
        pytest.skip("; ".join(note for note in result.notes if "energy" in note))
    assert energy.source == "nvml"
    assert energy.window_seconds >= 1.5
    assert energy.calls > 1
    assert energy.gross_interval_mj[0] <= energy.gross_mj <= energy.gross_interval_mj[1]
    assert result.energy_mj == energy.gross_mj > 0
    assert 0 < energy.refresh_ms < 1000
    if energy.net_mj is not None:
        assert energy.idle_w is not None
        assert 0 < energy.idle_w < 1000
        assert energy.net_mj < energy.gross_mj
    # Millijoules over milliseconds are watts: those of a busy GPU.
    watts = energy.gross_mj / (energy.window_seconds * 1e3 / energy.calls)
    limit = result.telemetry[0].power_limit_w
    assert watts > (energy.idle_w or 0.0)
    if limit is not None:
        assert watts < 1.2 * limit


def test_the_energy_counter_rises_while_the_gpu_works() -> None:
    matrix = torch.randn(4096, 4096, device=DEVICE)
    with open_gpu(cuda_uuid(0)) as gpu:
        counter = gpu.energy_counter()
        if isinstance(counter, str):
            pytest.skip(counter)
        before = counter.read_mj()
        for _ in range(20):  # well over the tenth of a second between its steps
            for _ in range(20):
                matrix @ matrix
            torch.cuda.synchronize()
        torch.cuda._sleep(10**9)
        torch.cuda.synchronize()
        after = counter.read_mj()
    assert before is not None
    assert after is not None
    assert after > before > 0


def test_the_clocks_event_reasons_can_be_read_or_the_look_says_why() -> None:
    with open_gpu(cuda_uuid(0)) as gpu:
        for look in (gpu.snapshot(), gpu.glance()):
            if look.event_reasons is None:
                assert look.notes
            else:
                assert not any(reason.startswith("0x") for reason in look.event_reasons)
            assert look.throttled_ns is None or look.throttled_ns >= 0


# Other processes


@contextlib.contextmanager
def another_process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs code, which prints a line when it is ready and ends when its standard input does."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_foreign_process_on_the_gpu_is_contention_or_unknown_but_never_no() -> None:
    from vnas.profiler.nvml import sees_all_processes

    holds = "import sys, torch; x = torch.zeros(1, device='cuda:0'); print('ready', flush=True); sys.stdin.read()"
    net, image = small_net()
    with another_process(holds):
        result = measure(net, image, device=DEVICE, min_seconds=0.1, max_seconds=0.5)
    assert result.contention in ("yes", "unknown")
    if sees_all_processes() and all(look.own_process_listed for look in result.telemetry):
        assert result.contention == "yes"
        assert any(note.startswith("contention: ") for note in result.notes)


def test_a_measurement_waits_for_the_process_that_holds_the_gpu() -> None:
    from vnas.profiler import Progress
    from vnas.profiler.lock import lock_key

    key = lock_key(DEVICE)
    assert key.endswith(cuda_uuid(0))
    assert key.startswith(("GPU-", "MIG-"))
    holds = (
        "import sys, time, torch\n"
        "from vnas.profiler.lock import device_lock, lock_key\n"
        "with device_lock(lock_key(torch.device('cuda', 0))) as held:\n"
        "    assert held.note is None, held.note\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    time.sleep(0.5)\n"
    )
    told: list[str] = []
    net, image = small_net()
    with another_process(holds) as process:

        def report(progress: Progress) -> None:
            told.append(progress.phase)
            if progress.phase.endswith("waiting") and len(told) == 1:
                assert process.stdin is not None
                process.stdin.write("let go\n")  # in half a second
                process.stdin.flush()

        measure(net, image, device=DEVICE, min_seconds=0.0, max_seconds=0.2, progress=report)
    assert told[0].startswith(f"{key} is being measured by process {process.pid}")


def test_two_fresh_processes_make_one_measurement() -> None:
    from vnas.profiler.replication import Cell, Rules, replicate

    pytest.importorskip("timm")
    cells = [Cell("timm:resnet18", 224, 1, "eager", "fp32"), Cell("timm:resnet18", 224, 1, "eager", "fp16")]
    rules = Rules(max_seconds=2.0, max_warmup_seconds=0.5)
    found = replicate(cells, DEVICE, processes=2, rules=rules)
    assert len(found) == 2
    for cell, result in zip(cells, found, strict=True):
        assert isinstance(result, Measurement), result
        assert (result.processes, result.precision) == (2, cell.precision)
        assert result.interval_method == "between processes"
        assert {block.process for block in result.blocks} == {0, 1}
        assert result.graph_ms is not None
        assert result.environment.device_kind == torch.cuda.get_device_name(0)


def test_the_command_measures_and_its_parent_stays_off_the_gpu(tmp_path: Path) -> None:
    from vnas.profiler.results import read_json

    pytest.importorskip("timm")
    path = tmp_path / "latency.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "vnas.profiler", "timm:resnet18", "--gpu", "0", "--processes", "1",
            "--max-seconds", "1", "--energy-seconds", "0", "--json", str(path),
        ],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = read_json(path)
    assert json.loads(path.read_text())["schema"] == 2
    assert entry.measurement.environment.device_type == "cuda"
    seen = [look.other_processes for look in entry.measurement.telemetry if look.other_processes is not None]
    # This process is on the GPU, as one other; the command's own, which waits for its worker, must not be.
    assert max(seen, default=0) <= 1


# Layers


def test_layers_sum_to_the_call_and_each_has_its_kernels(mobilenet: tuple[torch.nn.Module, torch.Tensor]) -> None:
    from vnas.profiler.layers import layer_breakdown

    net, image = mobilenet
    result = layer_breakdown(net, image, device=DEVICE, max_seconds=2.0)
    assert result.timer == "cuda events"
    assert math.fsum(row.exclusive_ms for row in result.rows) == pytest.approx(result.total_ms, rel=1e-9)
    assert all(row.exclusive_ms >= 0 for row in result.rows)
    assert sum(row.parameters for row in result.rows) == sum(value.numel() for value in net.parameters())
    if all(row.kernels is None for row in result.rows):
        pytest.skip(next(note for note in result.notes if note.startswith("kernels are not counted")))
    convolutions = [row for row in result.rows if row.type == "Conv2d"]
    assert all(row.kernels is not None and row.kernels >= 1 for row in convolutions)
    assert all(row.kernels == 0 for row in result.rows if row.calls == 0)


def test_layers_of_long_kernels_are_those_of_the_call_without_probes() -> None:
    from vnas.profiler.layers import layer_breakdown

    net, inputs = matmul_chain(4096, 8)
    result = layer_breakdown(net, inputs, device=DEVICE, max_seconds=2.0)
    assert abs(result.difference) < result.tolerance
    linear = [row.exclusive_ms for row in result.rows if row.type == "Linear"]
    assert len(linear) == 8
    assert max(linear) < 1.5 * min(linear)
    counted = [row.kernels for row in result.rows if row.type == "Linear"]
    if None not in counted:
        assert all(counted)
