from __future__ import annotations

import time

import pytest
from simulated_gpu import SimulatedEvent, SimulatedGpu

from vnas.errors import MeasurementError
from vnas.profiler.timers import CpuTimer, CudaEventTimer, EnqueueTimer, HostTimer, ReplayTimer


def test_cpu_timer_on_a_given_clock() -> None:
    ticks = iter([1_000_000, 3_500_000, 4_000_000_000])
    timer = CpuTimer(lambda: next(ticks))
    assert timer.time(lambda: None) == 2.5
    assert timer.now() == 4.0


def test_cpu_timer_on_the_real_clock() -> None:
    timer = CpuTimer()
    assert timer.time(lambda: time.sleep(0.002)) >= 2.0
    assert timer.now() <= timer.now()


# Four kernels. Launch-bound: the host takes 10 us for each launch, the GPU 2 us for each kernel, so the last one is
# launched at 40 us and done at 42. GPU-bound: 2 us a launch, 10 us a kernel: the first starts at 2, the last is done
# at 42.
LAUNCH_BOUND = (4, 10_000, 2_000)
GPU_BOUND = (4, 2_000, 10_000)


@pytest.mark.parametrize(
    ("work", "events_ms", "host_ms", "enqueue_ms"),
    [(LAUNCH_BOUND, 0.042, 0.042, 0.040), (GPU_BOUND, 0.042, 0.042, 0.008)],
)
def test_three_times_of_one_call(
    work: tuple[int, int, int], events_ms: float, host_ms: float, enqueue_ms: float
) -> None:
    gpu = SimulatedGpu(*work)
    events = CudaEventTimer(lambda: SimulatedEvent(gpu), "stream", gpu.clock)
    host = HostTimer(gpu.synchronize, gpu.clock)
    enqueue = EnqueueTimer(gpu.synchronize, gpu.clock)
    for _ in range(3):
        assert events.time(gpu.call) == pytest.approx(events_ms)
        assert host.time(gpu.call) == pytest.approx(host_ms)
        assert enqueue.time(gpu.call) == pytest.approx(enqueue_ms)
    assert events.now() == gpu.now_ns / 1e9


def test_earlier_work_is_not_counted_by_the_host_timers() -> None:
    gpu = SimulatedGpu(*GPU_BOUND)
    gpu.busy_until_ns = 5_000_000
    assert HostTimer(gpu.synchronize, gpu.clock).time(gpu.call) == pytest.approx(0.042)


def test_replay_makes_the_call_and_moves_its_clock() -> None:
    calls: list[int] = []
    timer = ReplayTimer([1.0, 2.5])
    assert [timer.time(lambda: calls.append(1)) for _ in range(2)] == [1.0, 2.5]
    assert len(calls) == 2
    assert timer.now() == 0.0035


def test_replay_that_is_too_short_says_so() -> None:
    timer = ReplayTimer([1.0])
    timer.time(lambda: None)
    with pytest.raises(MeasurementError, match="ended after 1 calls"):
        timer.time(lambda: None)
