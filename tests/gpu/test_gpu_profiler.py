"""The profiler on a real GPU: pytest -m gpu."""

from __future__ import annotations

import statistics

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


def test_inputs_on_the_cpu_are_refused() -> None:
    with pytest.raises(MeasurementError, match="input 0 is on cpu, the measurement on cuda:0"):
        measure(torch.relu, torch.zeros(2), device=DEVICE)


def test_an_index_that_does_not_exist() -> None:
    with pytest.raises(DeviceError, match=cuda_uuid(0)):
        resolve_device(gpu=torch.cuda.device_count())
