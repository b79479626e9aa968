"""Looks at the device between blocks of samples: the GPU's telemetry, the CPU's pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vnas.profiler.phases import Look
from vnas.profiler.telemetry import Snapshot, slowed_between, slowed_now

GLANCE_SECONDS = 0.5
"""Between two looks at a GPU: a look takes milliseconds."""

PACE_SECONDS = 0.05
"""Between two readings of the pace: a reading takes a fifth of a millisecond."""

SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5
PAUSE_GROWTH = 1.5


class Watch(Protocol):
    """Looks at a GPU while it is measured."""

    def snapshot(self) -> Snapshot:
        """Everything that can be read."""
        ...

    def glance(self) -> Snapshot:
        """What changes while sampling: clocks, temperature, power, event reasons, processes."""
        ...


class Pace(Protocol):
    """Times a reference operation on the CPUs."""

    @property
    def quiet_us(self) -> float | None:
        """Microseconds of the operation when nothing slows the machine, as far as seen."""
        ...

    def read_us(self) -> float:
        """Microseconds of the operation now."""
        ...


class CpuLooks:
    """Reads the pace; short enough that no sample after it is another than those before."""

    block_seconds = PACE_SECONDS

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    @property
    def quiet_us(self) -> float | None:
        """Pace of the undisturbed machine, as far as seen."""
        return self._pace.quiet_us

    def look(self) -> Look:
        """The pace now."""
        return Look(pace_us=self._pace.read_us())


class GpuLooks:
    """Glances at a GPU, and lets it cool down for a while where the hardware slows it.

    Args:
        watch: reads the telemetry.
        sleep: takes seconds.
    """

    block_seconds = GLANCE_SECONDS
    quiet_us = None

    def __init__(self, watch: Watch, sleep: Callable[[float], None]) -> None:
        self._watch = watch
        self._sleep = sleep
        self._pause = SHORTEST_PAUSE_SECONDS
        self.snapshots: list[Snapshot] = []

    def full(self) -> None:
        """Look at everything."""
        self.snapshots.append(self._watch.snapshot())

    def look(self) -> Look:
        """Whether the hardware slows down or has done so since the last look."""
        seen = self._watch.glance()
        before = self.snapshots[-1] if self.snapshots else seen
        self.snapshots.append(seen)
        if not slowed_now(seen):
            self._pause = SHORTEST_PAUSE_SECONDS
            return Look(throttled=slowed_between(before, seen), away=True)
        self._sleep(self._pause)
        self._pause = min(self._pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)
        return Look(throttled=True, away=True)
