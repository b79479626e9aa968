"""The protocol of one measurement, over whatever instruments a device has.

    check | warm up | turns of: look | (samples | look)* | host | enqueue | graph | look | energy | look | summarise

A net alone has its turns one after the other. Several nets take them in shuffled rounds, so that drift hits all
alike. The main samples come first after the warm-up; what could disturb them (another timer, capturing a graph)
comes after.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from vnas.errors import MeasurementError
from vnas.profiler import phases
from vnas.profiler.cpu_load import cpu_contention
from vnas.profiler.energy import Energy
from vnas.profiler.looking import CpuLooks, GpuLooks, Pace, Watch
from vnas.profiler.notes import (
    ENERGY_LEFT_OUT,
    contention_notes,
    discard_notes,
    fault_notes,
    later_notes,
    launch_notes,
    shared_energy,
    telemetry_notes,
    unseen_notes,
    warmup_notes,
)
from vnas.profiler.phases import Looks, NoLooks, Sampler, Sampling, StoppingRule, Summary, WarmUp, WarmUpRule
from vnas.profiler.statistics import median_interval
from vnas.profiler.telemetry import Contention, Snapshot, contention, throttled
from vnas.profiler.timers import Call, Timer

LAUNCH_BOUND_SHARE = 0.8
"""Share of the GPU time above which the host's enqueue time makes a call launch-bound (trtexec's rule)."""

UNSEEN_SHARE = 0.25
"""Share of the longer of event and enqueue time by which the host may wait longer, end to end, ..."""

UNSEEN_MS = 0.1
"""... and milliseconds that come on top, for the wait itself. What lies beyond is work that the events do not see."""

SIDE_SHARE = 0.2
"""Share of the time limit that each of the other timers (host, enqueue, graph) may use."""

TURN_SECONDS = 0.5
"""Of one net's turn in a round, at least."""

TURN_CALLS = 30
"""In a turn, at least: the untimed call that begins it then takes no more than a thirtieth."""

REPORT_SECONDS = 0.5
"""Between two reports of progress."""


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
        host: host end-to-end time, where it is another number.
        enqueue: the host's share, where it is another number.
        capture: makes one graph of a call, where the device has such.
        watch: looks at a GPU.
        load: counts what others do on the CPUs.
        pace: times the reference operation on the CPUs.
        patience_seconds: to wait for slowed CPUs to become quiet, in all.
        faults: page faults of this process so far.
        energy: measures the energy of a call, or says why not; None leaves it out.
        sleep: pauses while a GPU cools down.
    """

    main: Timer
    finish: Call
    host: Timer | None = None
    enqueue: Timer | None = None
    capture: Callable[[Call], Call] | None = None
    watch: Watch | None = None
    load: Load | None = None
    pace: Pace | None = None
    patience_seconds: float = 0.0
    faults: Callable[[], int] | None = None
    energy: Callable[[Call], Energy | str] | None = None
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Progress:
    """Where a measurement is: for a progress line.

    Attributes:
        phase: ``wait``, ``prepare``, ``check``, ``warm up``, ``sample``, ``host``, ``enqueue``, ``graph`` or
            ``energy``.
        samples: taken so far in this phase.
        seconds: gone by in this phase.
        median_ms: so far; None before the first sample.
        relative_width: of the interval so far; None before the first sample.
        name: of the net.
        waiting: in phase ``wait``: who has the device, which it waits for.
    """

    phase: str
    samples: int = 0
    seconds: float = 0.0
    median_ms: float | None = None
    relative_width: float | None = None
    name: str = ""
    waiting: str | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Findings:
    """What the protocol found; ``Measurement`` adds what was measured, and where.

    Attributes:
        warmup: how long it took, and whether the device was steady then.
        sampling: the samples, those put aside, and why there are no more.
        summary: the interval of their median.
        host_samples_ms: end to end; empty where the device has no such timer.
        enqueue_samples_ms: until the call returned; empty likewise.
        graph_samples_ms: of the graph's replay; empty likewise, or where it cannot be captured.
        launch_bound: see ``Measurement``, as are those that follow.
        valid: the number can be used.
        telemetry: all looks at the GPU.
        throttled: the hardware slowed down.
        contention: others were on the device.
        other_cpus: on the CPU, how many they kept busy.
        page_faults: on the CPU, of a call.
        energy: of a call; None where a note says why.
        notes: warnings that travel with the result.
    """

    warmup: WarmUp
    sampling: Sampling
    summary: Summary
    host_samples_ms: tuple[float, ...]
    enqueue_samples_ms: tuple[float, ...]
    graph_samples_ms: tuple[float, ...]
    launch_bound: bool | None
    valid: bool
    telemetry: tuple[Snapshot, ...]
    throttled: bool | None
    contention: Contention
    other_cpus: float | None
    page_faults: float | None
    energy: Energy | None
    notes: tuple[str, ...]


class Run:
    """One callable on one device in this process: ``prepare``, ``turn`` until ``done``, ``finish``.

    Args:
        call: what is measured.
        instruments: of its device.
        warmup: when the device is steady.
        rule: when there are enough samples.
        report: is told of progress.
        name: what progress is told under.
        active: switches that must hold while the call is made.
        process: number of this process.
    """

    def __init__(
        self,
        call: Call,
        instruments: Instruments,
        warmup: WarmUpRule,
        rule: StoppingRule,
        report: Report | None = None,
        *,
        name: str = "",
        active: Callable[[], AbstractContextManager[object]] = nullcontext,
        process: int = 0,
    ) -> None:
        self.name = name
        self._call, self._instruments, self._warmup_rule, self._rule = call, instruments, warmup, rule
        self._report = report
        self._active = active
        self._gpu = GpuLooks(instruments.watch, instruments.sleep) if instruments.watch is not None else None
        self._sampler = Sampler(instruments.main, call, rule, self._looks(), process=process)
        self._warm: WarmUp | None = None
        self._faults = 0
        self._reported = 0.0

    @property
    def done(self) -> bool:
        """Whether there are enough samples."""
        return self._sampler.stop_reason is not None

    def prepare(self) -> None:
        """Check and warm up.

        Raises:
            MeasurementError: the callable raised, or a timer gave a time that cannot be; names the phase.
        """
        instruments = self._instruments
        with self._active(), _no_garbage_collection():
            self._tell("check")
            phases.check(self._call, instruments.finish)
            self._tell("warm up")
            self._warm = phases.warm_up(instruments.main, self._call, self._warmup_rule)
        self._full_look()
        if instruments.load is not None:
            instruments.load.start()

    def turn(self, after_another: bool = False) -> None:
        """Sample for one turn.

        Args:
            after_another: another net had the device since, so an untimed call comes first.
        """
        sampler, count_faults = self._sampler, self._instruments.faults
        with self._active(), _no_garbage_collection():
            before = count_faults() if count_faults is not None else 0
            sampler.turn(self._turn_seconds(), after_another)
            self._faults += (count_faults() if count_faults is not None else 0) - before
        if self._report is not None and sampler.seconds - self._reported >= REPORT_SECONDS:
            self._reported = sampler.seconds
            interval = median_interval(sampler.samples)
            self._report(
                Progress(
                    "sample",
                    len(sampler.samples),
                    sampler.seconds,
                    interval.median,
                    interval.relative_width,
                    self.name,
                )
            )

    def finish(self) -> Findings:
        """The other timers, the energy, and the summary.

        Raises:
            MeasurementError: as in ``prepare``.
        """
        assert self._warm is not None
        instruments, rule = self._instruments, self._rule
        other_cpus = instruments.load.other_cpus() if instruments.load is not None else None
        while_sampling = len(self._full_look())
        sampling = self._sampler.result()
        summary = phases.summarise(sampling, rule)
        with self._active(), _no_garbage_collection():
            side = dataclasses.replace(
                rule, min_seconds=0.0, max_samples=rule.min_samples, max_seconds=rule.max_seconds * SIDE_SHARE
            )
            phases.guarded(instruments.finish, "sample")  # work that no event waited for would be the next timer's
            host = self._side(instruments.host, side, "host")
            enqueue = self._side(instruments.enqueue, side, "enqueue")
            graph, graph_notes = self._graph(side)
            self._full_look()
            energy, energy_notes = self._energy()
        median_ms = summary.interval.median
        bound = statistics.median(enqueue) > LAUNCH_BOUND_SHARE * median_ms if enqueue else None
        unseen = has_unseen_work(median_ms, host, enqueue)
        snapshots = tuple(self._gpu.snapshots) if self._gpu is not None else ()
        faults = self._faults / self._sampler.calls if instruments.faults is not None else None
        if instruments.load is None:
            contended = contention(snapshots)
        else:
            contended = "yes" if sampling.disturbed else cpu_contention(other_cpus)
        return Findings(
            warmup=self._warm,
            sampling=sampling,
            summary=summary,
            host_samples_ms=host,
            enqueue_samples_ms=enqueue,
            graph_samples_ms=graph,
            launch_bound=bound,
            valid=sampling.valid and not unseen,
            telemetry=snapshots,
            throttled=throttled(snapshots),
            contention=contended,
            other_cpus=other_cpus,
            page_faults=faults,
            energy=energy,
            notes=(
                *warmup_notes(self._warm, self._warmup_rule),
                *summary.notes,
                *(unseen_notes(median_ms, host, enqueue) if unseen else ()),
                *launch_notes(bound and not unseen, median_ms, enqueue),
                *discard_notes(sampling),
                *contention_notes(snapshots[:while_sampling], other_cpus),
                *later_notes(snapshots, while_sampling),
                *telemetry_notes(snapshots, throttled(snapshots[:while_sampling])),
                *fault_notes(faults),
                *graph_notes,
                *energy_notes,
            ),
        )

    def _full_look(self) -> list[Snapshot]:
        """Look at everything; all looks so far."""
        if self._gpu is None:
            return []
        self._gpu.full()
        return self._gpu.snapshots

    def _looks(self) -> Looks:
        if self._gpu is not None:
            return self._gpu
        pace = self._instruments.pace
        return NoLooks() if pace is None else CpuLooks(pace, self._instruments.patience_seconds)

    def _turn_seconds(self) -> float:
        samples = self._sampler.samples
        call_seconds = samples[-1] / 1e3 if samples else 0.0
        return max(TURN_SECONDS, TURN_CALLS * call_seconds)

    def _tell(self, phase: str) -> None:
        if self._report is not None:
            self._report(Progress(phase, name=self.name))

    def _side(self, timer: Timer | None, rule: StoppingRule, phase: str) -> tuple[float, ...]:
        if timer is None:
            return ()
        self._tell(phase)
        return phases.sample(timer, self._call, rule, phase=phase).samples_ms

    def _graph(self, rule: StoppingRule) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Samples of the graph's replay, or the reason why there are none: not every callable can be captured."""
        instruments = self._instruments
        if instruments.capture is None:
            return (), ()
        self._tell("graph")
        capture = instruments.capture
        try:
            replay = phases.guarded(lambda: capture(self._call), "graph")
            phases.check(replay, instruments.finish, phase="graph")
            return phases.sample(instruments.main, replay, rule, phase="graph").samples_ms, ()
        except MeasurementError as error:
            return (), (f"no graph replay time: {error}",)

    def _energy(self) -> tuple[Energy | None, tuple[str, ...]]:
        """The energy, or the reason why there is none; its counter cannot tell this process from another."""
        measure_energy, load = self._instruments.energy, self._instruments.load
        if measure_energy is None:
            return None, (ENERGY_LEFT_OUT,)
        self._tell("energy")
        if load is not None:
            load.start()
        found = phases.guarded(lambda: measure_energy(self._call), "energy")
        looks = self._full_look()[-2:]
        if not isinstance(found, str):
            found = shared_energy(looks, load.other_cpus() if load is not None else None) or found
        return (None, (found,)) if isinstance(found, str) else (found, ())


def has_unseen_work(median_ms: float, host_ms: Sequence[float], enqueue_ms: Sequence[float]) -> bool:
    """Whether the host waits clearly longer for a call than the events and its enqueue time explain.

    Args:
        median_ms: between the events.
        host_ms: samples end to end; empty where that is no other number.
        enqueue_ms: samples of the host's share.
    """
    if not host_ms:
        return False
    explained = max(median_ms, statistics.median(enqueue_ms) if enqueue_ms else 0.0)
    return statistics.median(host_ms) > (1.0 + UNSEEN_SHARE) * explained + UNSEEN_MS


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
