"""The protocol of one measurement, over whatever instruments a device has.

    check | warm up | look at the GPU | sample (a glance every half second) | look | host | enqueue | graph | summarise

The main samples come first after the warm-up; what could disturb them (another timer, capturing a graph) comes after.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from vnas.errors import MeasurementError
from vnas.profiler import phases
from vnas.profiler.cpu_load import cpu_contention
from vnas.profiler.notes import contention_notes, telemetry_notes, warmup_notes
from vnas.profiler.phases import Sampling, StoppingRule, Summary, WarmUp, WarmUpRule
from vnas.profiler.statistics import median_interval
from vnas.profiler.telemetry import Contention, Snapshot, contention, throttled
from vnas.profiler.timers import Call, Timer

LAUNCH_BOUND_SHARE = 0.8
"""Share of the GPU time above which the host's enqueue time makes a call launch-bound (trtexec's rule)."""

GLANCE_SECONDS = 0.5
"""Between two looks at the GPU, and two reports of progress, while sampling."""

LONG_CALL_MS = 100.0
"""From here on the few milliseconds of a look are no pause that an untimed call would have to make good."""

SIDE_SHARE = 0.2
"""Share of the time limit that each of the other timers (host, enqueue, graph) may use."""


class Watch(Protocol):
    """Looks at the device while it is measured."""

    def snapshot(self) -> Snapshot:
        """Everything that can be read."""
        ...

    def glance(self) -> Snapshot:
        """What changes while sampling: clocks, temperature, power, event reasons, processes."""
        ...


class Load(Protocol):
    """Counts what other processes do on the CPUs that are measured."""

    def start(self) -> None:
        """Count from now on."""
        ...

    def other_cpus(self) -> float | None:
        """CPUs' worth of work by others since ``start``; None where it cannot be told."""
        ...


@dataclass(frozen=True)
class Instruments:
    """What a device is measured with.

    Attributes:
        main: gives the samples of the result.
        finish: waits until the device is done.
        host: end-to-end time of the host; None where ``main`` is that already.
        enqueue: the host's time to launch; None where nothing is launched.
        capture: makes a replay of the call as one graph, timed by ``main``; None where there are no graphs.
        watch: telemetry of a GPU; None where there is none.
        load: of other processes, where a CPU is measured; None elsewhere.
    """

    main: Timer
    finish: Call
    host: Timer | None = None
    enqueue: Timer | None = None
    capture: Callable[[Call], Call] | None = None
    watch: Watch | None = None
    load: Load | None = None


@dataclass(frozen=True)
class Progress:
    """Where a measurement is: for a progress line.

    Attributes:
        phase: ``check``, ``warm up``, ``sample``, ``host``, ``enqueue`` or ``graph``.
        samples: taken so far in this phase.
        seconds: gone by in this phase.
        median_ms: so far; None before the first sample.
        relative_width: of the interval so far; None before the first sample.
    """

    phase: str
    samples: int = 0
    seconds: float = 0.0
    median_ms: float | None = None
    relative_width: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Findings:
    """What the protocol found; ``Measurement`` adds what was measured, and where."""

    warmup: WarmUp
    sampling: Sampling
    summary: Summary
    host_samples_ms: tuple[float, ...]
    enqueue_samples_ms: tuple[float, ...]
    graph_samples_ms: tuple[float, ...]
    launch_bound: bool | None
    telemetry: tuple[Snapshot, ...]
    throttled: bool | None
    contention: Contention
    other_cpus: float | None
    notes: tuple[str, ...]


def run_protocol(
    call: Call, instruments: Instruments, warmup: WarmUpRule, rule: StoppingRule, report: Report | None = None
) -> Findings:
    """All phases, in order.

    Raises:
        MeasurementError: the callable raised, or a timer gave a time that cannot be; names the phase.
    """
    tell = report if report is not None else lambda progress: None
    tell(Progress("check"))
    phases.check(call, instruments.finish)
    with _no_garbage_collection():
        tell(Progress("warm up"))
        warm = phases.warm_up(instruments.main, call, warmup)
        between = _Between(instruments, report)
        between.look()
        if instruments.load is not None:
            instruments.load.start()
        sampling = phases.sample(instruments.main, call, rule, between)
        other_cpus = instruments.load.other_cpus() if instruments.load is not None else None
        between.look()
        summary = phases.summarise(sampling, rule)
        side = dataclasses.replace(
            rule, min_seconds=0.0, max_samples=rule.min_samples, max_seconds=rule.max_seconds * SIDE_SHARE
        )
        host = _side(instruments.host, call, side, "host", tell)
        enqueue = _side(instruments.enqueue, call, side, "enqueue", tell)
        graph, graph_notes = _graph(instruments, call, side, tell)
    bound = None
    if enqueue:
        bound = statistics.median(enqueue) > LAUNCH_BOUND_SHARE * summary.interval.median
    snapshots = tuple(between.snapshots)
    slowed = throttled(snapshots)
    return Findings(
        warmup=warm,
        sampling=sampling,
        summary=summary,
        host_samples_ms=host,
        enqueue_samples_ms=enqueue,
        graph_samples_ms=graph,
        launch_bound=bound,
        telemetry=snapshots,
        throttled=slowed,
        contention=cpu_contention(other_cpus) if instruments.load is not None else contention(snapshots),
        other_cpus=other_cpus,
        notes=(
            *warmup_notes(warm, warmup),
            *summary.notes,
            *contention_notes(snapshots, other_cpus),
            *telemetry_notes(snapshots, slowed),
            *graph_notes,
        ),
    )


class _Between:
    """Called between samples; every ``GLANCE_SECONDS`` it glances at the device and reports progress."""

    def __init__(self, instruments: Instruments, report: Report | None) -> None:
        self._watch = instruments.watch
        self._report = report
        self._due = GLANCE_SECONDS
        self.snapshots: list[Snapshot] = []

    def look(self) -> None:
        if self._watch is not None:
            self.snapshots.append(self._watch.snapshot())

    def __call__(self, samples: Sequence[float], seconds: float) -> bool:
        if seconds < self._due or (self._watch is None and self._report is None):
            return False
        self._due = seconds + GLANCE_SECONDS
        if self._watch is not None:
            self.snapshots.append(self._watch.glance())
        if self._report is not None:
            interval = median_interval(samples)
            self._report(Progress("sample", len(samples), seconds, interval.median, interval.relative_width))
        return samples[-1] < LONG_CALL_MS


def _side(timer: Timer | None, call: Call, rule: StoppingRule, phase: str, tell: Report) -> tuple[float, ...]:
    if timer is None:
        return ()
    tell(Progress(phase))
    return phases.sample(timer, call, rule, phase=phase).samples_ms


def _graph(
    instruments: Instruments, call: Call, rule: StoppingRule, tell: Report
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Samples of the graph's replay, or the reason why there are none: not every callable can be captured."""
    if instruments.capture is None:
        return (), ()
    tell(Progress("graph"))
    capture = instruments.capture
    try:
        replay = phases.guarded(lambda: capture(call), "graph")
        phases.check(replay, instruments.finish, phase="graph")
        return phases.sample(instruments.main, replay, rule, phase="graph").samples_ms, ()
    except MeasurementError as error:
        return (), (f"no graph replay time: {error}",)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
