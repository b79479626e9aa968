"""The whole protocol on a GPU of arithmetic: what each number must be follows from launch and kernel times."""

from __future__ import annotations

import dataclasses
import gc

import pytest
from simulated_gpu import SimulatedGpu, run_protocol

from vnas.errors import MeasurementError
from vnas.profiler.energy import Energy
from vnas.profiler.notes import ENERGY_LEFT_OUT
from vnas.profiler.phases import StoppingRule, WarmUpRule
from vnas.profiler.protocol import Findings, Instruments, Progress
from vnas.profiler.telemetry import Snapshot
from vnas.profiler.timers import Call, ReplayTimer

RULE = StoppingRule(min_samples=50, min_seconds=0.1, max_seconds=5.0)


class Watcher:
    def __init__(self) -> None:
        self.looks: list[str] = []

    def snapshot(self) -> Snapshot:
        self.looks.append("snapshot")
        return Snapshot(event_reasons=(), other_processes=0)

    def glance(self) -> Snapshot:
        self.looks.append("glance")
        return Snapshot(event_reasons=(), other_processes=0, full=False)


def run(gpu: SimulatedGpu, watch: Watcher | None = None) -> Findings:
    return run_protocol(gpu.call, gpu.instruments(watch), WarmUpRule(), RULE)


def test_a_launch_bound_call() -> None:
    # 10 launches of 10 us; kernels of 2 us wait for them: 102 us eager, 100 us of them the host's.
    found = run(SimulatedGpu(kernels=10, launch_ns=10_000, kernel_ns=2_000))
    assert found.summary.interval.median == pytest.approx(0.102)
    assert found.host_samples_ms == pytest.approx([0.102] * 50)
    assert found.enqueue_samples_ms == pytest.approx([0.100] * 50)
    # As a graph: one launch of 10 us, then 20 us of kernels.
    assert found.graph_samples_ms == pytest.approx([0.030] * 50)
    assert found.launch_bound is True
    launch, energy = found.notes
    assert launch.startswith("launch-bound: the host takes 0.1 ms to launch a call of 0.102 ms, ")
    assert energy == ENERGY_LEFT_OUT


def test_a_call_bound_by_its_kernels() -> None:
    found = run(SimulatedGpu(kernels=10, launch_ns=2_000, kernel_ns=10_000))
    assert found.summary.interval.median == pytest.approx(0.102)
    assert found.enqueue_samples_ms == pytest.approx([0.020] * 50)
    assert found.graph_samples_ms == pytest.approx([0.102] * 50)
    assert found.launch_bound is False


@pytest.mark.parametrize(("kernel_ns", "bound"), [(2_600, False), (2_400, True)])
def test_launch_bound_from_eight_tenths_on(kernel_ns: int, bound: bool) -> None:
    # One launch of 10 us before a kernel: enqueue over GPU time is 10 / (10 + kernel), at .8 for 2.5 us.
    found = run(SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=kernel_ns))
    assert found.launch_bound is bound
    assert any(note.startswith("launch-bound: the host takes ") for note in found.notes) is bound


def test_the_gpu_is_looked_at_before_during_and_after() -> None:
    watch = Watcher()
    found = run(SimulatedGpu(kernels=10, launch_ns=2_000_000, kernel_ns=100_000), watch)
    # The last two come after the samples and after the other timers.
    assert watch.looks[0] == watch.looks[-1] == watch.looks[-2] == "snapshot"
    # 50 calls of 20.1 ms are a second of sampling: one look each half second.
    assert set(watch.looks[1:-2]) == {"glance"}
    assert watch.looks.count("glance") in (3, 4)
    assert len(found.telemetry) == len(watch.looks)
    assert (found.throttled, found.contention) == (False, "no")


def test_without_telemetry_nothing_is_claimed() -> None:
    found = run(SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=5_000))
    assert found.telemetry == ()
    assert found.throttled is None
    assert found.contention == "unknown"


def test_what_cannot_be_captured_has_no_graph_time_and_says_why() -> None:
    gpu = SimulatedGpu(kernels=10, launch_ns=10_000, kernel_ns=2_000)

    def refuse(call: Call) -> Call:
        raise RuntimeError("operation not permitted when stream is capturing")

    instruments = Instruments(gpu.instruments().main, gpu.synchronize, capture=refuse)
    found = run_protocol(gpu.call, instruments, WarmUpRule(), RULE)
    assert found.graph_samples_ms == ()
    assert found.notes == (
        "no graph replay time: graph: the callable raised RuntimeError: "
        "operation not permitted when stream is capturing",
        ENERGY_LEFT_OUT,
    )
    assert found.summary.interval.median == pytest.approx(0.102)


def test_a_single_timer_gives_a_single_number() -> None:
    instruments = Instruments(ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None)
    found = run_protocol(lambda: None, instruments, WarmUpRule(), RULE)
    assert (found.host_samples_ms, found.enqueue_samples_ms, found.graph_samples_ms) == ((), (), ())
    assert found.launch_bound is None


@pytest.mark.parametrize(("kernel_ms", "untimed"), [(20, True), (200, False)])
def test_a_look_is_made_good_by_an_untimed_call_where_calls_are_short(kernel_ms: int, untimed: bool) -> None:
    gpu = SimulatedGpu(kernels=1, launch_ns=1_000, kernel_ns=kernel_ms * 1_000_000)
    watch = Watcher()
    instruments = Instruments(gpu.instruments().main, gpu.synchronize, watch=watch)
    found = run_protocol(gpu.call, instruments, WarmUpRule(), RULE)
    counted = 1 + found.warmup.iterations + len(found.sampling.samples_ms)  # the first is the check
    # The first glance comes before there is a sample to tell how long a call is; after the last comes no call.
    assert gpu.calls - counted == (watch.looks.count("glance") - 1 if untimed else 1)
    assert "glance" in watch.looks


class Rivals:
    """Counts the calls between start and the question, and says that others kept half a CPU busy."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls
        self.counted = 0

    def start(self) -> None:
        self.counted = -len(self.calls)

    def other_cpus(self) -> float | None:
        self.counted += len(self.calls)
        return 0.5


def test_the_load_of_others_is_counted_over_the_samples_alone() -> None:
    calls: list[int] = []
    rivals = Rivals(calls)
    instruments = Instruments(ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None, load=rivals)
    found = run_protocol(lambda: calls.append(1), instruments, WarmUpRule(), RULE)
    assert rivals.counted == len(found.sampling.samples_ms)
    assert len(calls) > rivals.counted
    assert found.page_faults is None
    assert (found.other_cpus, found.contention) == (0.5, "yes")
    assert found.notes == (
        "contention: other processes kept 0.5 CPUs busy; measure again when they have ended",
        ENERGY_LEFT_OUT,
    )


def test_progress_names_every_phase_and_counts_samples() -> None:
    told: list[Progress] = []
    gpu = SimulatedGpu(kernels=10, launch_ns=2_000_000, kernel_ns=100_000)
    run_protocol(gpu.call, gpu.instruments(), WarmUpRule(), RULE, told.append)
    assert list(dict.fromkeys(progress.phase for progress in told)) == [
        "check",
        "warm up",
        "sample",
        "host",
        "enqueue",
        "graph",
    ]
    sampled = [progress for progress in told if progress.phase == "sample"]
    assert sampled[0].samples > 0
    assert sampled[0].median_ms == pytest.approx(20.1)
    assert sampled[0].relative_width == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_and_is_left_as_it_was(enabled: bool) -> None:
    seen: list[bool] = []
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        instruments = Instruments(ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None)
        run_protocol(lambda: seen.append(gc.isenabled()), instruments, WarmUpRule(), RULE)
        assert gc.isenabled() is enabled
        assert not any(seen[1:])  # the first call is the check
        with pytest.raises(MeasurementError):
            run_protocol(lambda: None, Instruments(ReplayTimer([1.0]), lambda: None), WarmUpRule(), RULE)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


class Scripted:
    """Telemetry that changes after so many looks."""

    def __init__(self, *looks: Snapshot, then: Snapshot) -> None:
        self._looks = iter(looks)
        self._then = then

    def snapshot(self) -> Snapshot:
        return next(self._looks, self._then)

    glance = snapshot


CALM = Snapshot(event_reasons=(), other_processes=0, sm_clock_mhz=1980)
HOT = Snapshot(event_reasons=("hw_thermal_slowdown",), other_processes=0, sm_clock_mhz=600)
LONG = StoppingRule(min_samples=50, min_seconds=4.0, max_seconds=8.0)


def watched(*looks: Snapshot, then: Snapshot) -> Findings:
    """Calls of 20.1 ms, 25 between two looks."""
    gpu = SimulatedGpu(kernels=10, launch_ns=2_000_000, kernel_ns=100_000)
    instruments = Instruments(
        gpu.instruments().main, gpu.synchronize, watch=Scripted(*looks, then=then), sleep=lambda seconds: None
    )
    return run_protocol(gpu.call, instruments, WarmUpRule(), LONG)


def test_throttling_in_the_middle_costs_the_samples_around_it() -> None:
    found = watched(CALM, CALM, CALM, HOT, then=CALM)
    assert found.throttled is True
    assert found.sampling.valid
    assert [block.discarded for block in found.sampling.blocks[:4]] == [None, "throttled", "throttled", None]
    assert len(found.sampling.discarded_ms) == sum(block.count for block in found.sampling.blocks[1:3])
    assert any("throttled while sampling: clocks event reasons hw_thermal_slowdown" in note for note in found.notes)


def test_throttling_that_does_not_end_makes_the_result_invalid() -> None:
    found = watched(CALM, CALM, CALM, then=HOT)
    assert not found.sampling.valid
    assert found.sampling.stop_reason == "time limit"
    assert any(note.startswith("INVALID: the hardware was slowed down for more than 50%") for note in found.notes)


def test_a_process_that_appears_in_the_middle_is_contention() -> None:
    rival = Snapshot(event_reasons=(), other_processes=1)
    found = watched(CALM, CALM, CALM, rival, then=CALM)
    assert found.contention == "yes"
    assert "contention: up to 1 other compute processes were on the GPU; end them and measure again" in found.notes


def test_telemetry_that_vanishes_in_the_middle_leaves_the_number_and_the_reason() -> None:
    gone = Snapshot(notes=("sm_clock_mhz, event_reasons: NVML says GPU is lost",))
    found = watched(CALM, CALM, CALM, then=gone)
    assert found.summary.interval.median == pytest.approx(20.1)
    assert found.sampling.valid
    assert (found.throttled, found.contention) == (None, "unknown")
    assert "sm_clock_mhz, event_reasons: NVML says GPU is lost" in found.notes


def test_a_call_that_returns_before_the_gpu_is_done_is_timed_to_its_end() -> None:
    # One launch of 10 us, then 50 ms of kernel: the call returns after 10 us.
    found = run(SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=50_000_000))
    assert found.summary.interval.median == pytest.approx(50.01)
    assert found.enqueue_samples_ms == pytest.approx([0.01] * len(found.enqueue_samples_ms))


def doubts(found: Findings) -> tuple[str, ...]:
    """The notes, without those that say of a sound result what bounds it and what was not asked for."""
    return tuple(note for note in found.notes if not note.startswith("launch-bound") and note != ENERGY_LEFT_OUT)


@pytest.mark.parametrize(
    ("kernel_ns", "side_ns"),
    [
        (0, 5_000_000),  # everything lies on the other stream
        (2_000_000, 5_000_000),  # a part of it
        (5_000_000, 7_000_000),
        (0, 200_000),  # a short call
    ],
)
def test_work_on_another_stream_is_not_a_good_number(kernel_ns: int, side_ns: int) -> None:
    found = run(SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=kernel_ns, side_ns=side_ns))
    assert found.summary.interval.median == pytest.approx((10_000 + kernel_ns) / 1e6)
    assert found.host_samples_ms == pytest.approx([(10_000 + side_ns) / 1e6] * 50)
    assert not found.valid
    assert found.sampling.valid
    (note,) = (note for note in found.notes if note.startswith("INVALID: "))
    assert "work that the events on torch's current stream do not see" in note
    assert f"{0.01 + side_ns / 1e6:.4g} ms end to end" in note
    assert "torch.cuda.current_stream().wait_stream(other)" in note


@pytest.mark.parametrize(
    "gpu",
    [
        SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=0, side_ns=5_000_000, joined=True),
        SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=5_000_000, side_ns=5_000_000),  # hidden behind the events
        SimulatedGpu(
            kernels=1, launch_ns=5_000, kernel_ns=1_000, wait_ns=60_000
        ),  # the wait takes longer than the call
        SimulatedGpu(kernels=200, launch_ns=10_000, kernel_ns=1_000, wait_ns=60_000),
        SimulatedGpu(kernels=1, launch_ns=5_000_000, kernel_ns=0),  # the host's own work lies between the events
    ],
)
def test_work_that_the_events_see_is_no_reason_to_doubt(gpu: SimulatedGpu) -> None:
    found = run(gpu)
    assert found.valid
    assert doubts(found) == ()


ENERGY = Energy("nvml", 12.0, (11.0, 13.0), 10.0, (8.0, 12.0), 60.0, 5.0, 100, 100.0)


class Phased:
    """Telemetry of a GPU whose state a test sets."""

    def __init__(self) -> None:
        self.now = CALM

    def snapshot(self) -> Snapshot:
        return self.now

    glance = snapshot


@pytest.mark.parametrize("phase", ["host", "energy"])
@pytest.mark.parametrize("stays", [True, False])
def test_a_process_that_comes_after_the_samples_is_contention_and_costs_the_energy(phase: str, stays: bool) -> None:
    gpu, watch = SimulatedGpu(kernels=1, launch_ns=2_000_000, kernel_ns=100_000), Phased()

    def come(progress: Progress) -> None:
        if progress.phase == phase:
            watch.now = Snapshot(event_reasons=(), other_processes=2)

    def measured(call: Call) -> Energy:
        if not stays:
            watch.now = CALM
        return ENERGY

    instruments = dataclasses.replace(gpu.instruments(watch), energy=measured)
    found = run_protocol(gpu.call, instruments, WarmUpRule(), RULE, come)
    if phase == "energy" and not stays:  # no look saw it
        assert (found.contention, found.energy, doubts(found)) == ("no", ENERGY, ())
        return
    assert found.contention == "yes"
    assert found.energy is None
    after, reason = doubts(found)
    assert after.startswith("contention: up to 2 other compute processes came to the GPU after the samples")
    assert reason == (
        "no energy: up to 2 other compute processes were on the GPU in its window, and the counter does not tell them "
        "apart; end them and measure again"
    )


def test_a_process_that_was_there_all_the_time_is_said_once_and_costs_the_energy() -> None:
    gpu, watch = SimulatedGpu(kernels=1, launch_ns=2_000_000, kernel_ns=100_000), Phased()
    watch.now = Snapshot(event_reasons=(), other_processes=1)
    instruments = dataclasses.replace(gpu.instruments(watch), energy=lambda call: ENERGY)
    found = run_protocol(gpu.call, instruments, WarmUpRule(), RULE)
    assert found.energy is None
    assert [note.partition(":")[0] for note in doubts(found)] == ["contention", "no energy"]


def test_throttling_after_the_samples_is_noted_as_such() -> None:
    gpu, watch = SimulatedGpu(kernels=1, launch_ns=2_000_000, kernel_ns=100_000), Phased()

    def heat(progress: Progress) -> None:
        if progress.phase == "enqueue":
            watch.now = HOT

    found = run_protocol(gpu.call, gpu.instruments(watch), WarmUpRule(), RULE, heat)
    assert found.throttled is True
    assert found.sampling.discarded_ms == ()
    assert doubts(found) == (
        "throttled after the samples, while the host, enqueue and graph times or the energy were taken: clocks event "
        "reasons hw_thermal_slowdown; let the device cool and measure again",
    )


class Phases(Rivals):
    """Others are idle while the samples are taken, and keep half a CPU busy later."""

    def other_cpus(self) -> float | None:
        super().other_cpus()
        self.asked = getattr(self, "asked", 0) + 1
        return 0.0 if self.asked == 1 else 0.5


def test_the_energy_of_contended_cpus_is_none_with_the_reason() -> None:
    calls: list[int] = []
    phases = Phases(calls)

    def measured(call: Call) -> Energy:
        call()
        return ENERGY

    instruments = Instruments(ReplayTimer(iter(lambda: 5.0, None)), lambda: None, load=phases, energy=measured)
    found = run_protocol(lambda: calls.append(1), instruments, WarmUpRule(), RULE)
    assert phases.counted == 1  # over the energy's window alone
    assert (found.contention, found.other_cpus, found.energy) == ("no", 0.0, None)
    assert found.notes == (
        "no energy: other processes kept 0.5 CPUs busy in its window, and the counter does not tell them apart; "
        "measure again when they have ended",
    )


def test_energy_comes_with_the_result_or_its_reason() -> None:
    for given, expected, notes in [(ENERGY, ENERGY, ()), ("no counter", None, ("no counter",))]:
        instruments = Instruments(
            ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None, energy=lambda call, given=given: given
        )
        found = run_protocol(lambda: None, instruments, WarmUpRule(), RULE)
        assert (found.energy, found.notes) == (expected, notes)


def test_page_faults_are_counted_by_the_call() -> None:
    faults = [0]

    def call() -> None:
        faults[0] += 150

    instruments = Instruments(
        ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None, faults=lambda: faults[0], pace=Steady()
    )
    found = run_protocol(call, instruments, WarmUpRule(), RULE)
    assert found.page_faults == 150.0
    assert any(note.startswith("150 page faults a call") for note in found.notes)
    assert found.sampling.quiet_us == 5.0


class Steady:
    quiet_us = 5.0

    def read_us(self) -> float:
        return 5.0


class Slowed:
    """Quiet once, twice as slow ever after."""

    quiet_us = 5.0

    def read_us(self) -> float:
        return 10.0


def test_a_cpu_that_is_slowed_all_the_time_is_contended() -> None:
    instruments = Instruments(
        ReplayTimer(iter(lambda: 5.0, None)), finish=lambda: None, load=Quiet(), pace=Slowed(), patience_seconds=0.0
    )
    found = run_protocol(lambda: None, instruments, WarmUpRule(), RULE)
    assert (found.contention, found.other_cpus) == ("yes", 0.0)
    assert any("slowed most of the time" in note for note in found.notes)


class Quiet:
    def start(self) -> None:
        pass

    def other_cpus(self) -> float | None:
        return 0.0
