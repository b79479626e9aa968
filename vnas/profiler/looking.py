"""Looks at the device between blocks of samples: the GPU's telemetry, the CPU's pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from vnas.profiler.blocks import SLOWED_FACTOR
from vnas.profiler.phases import Look
from vnas.profiler.telemetry import Snapshot, slowed_between, slowed_now

GLANCE_SECONDS = 0.5
"""Between two looks at a GPU: a look takes milliseconds."""

PACE_SECONDS = 0.05
"""Between two readings of the pace: a reading takes a fifth of a millisecond."""

LONGEST_WAIT_SECONDS = 0.25
"""For a quiet machine, between two blocks; then a block is sampled anyway, so that its other state is known too."""

SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5
PAUSE_GROWTH = 1.5


class Watch(Protocol):
    """Looks at a GPU while it is measured."""

    def snapshot(self) -> Snapshot:
        """Everything that can be read."""
        ...

    def glance(self) -> Snapshot:
        """What changes while sampling: clocks, temperature, power, event reasons, utilisation, memory, processes."""
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
    """Reads the pace, and waits a while for a slowed machine to become quiet.

    A reading alone is so short that no sample after it is another than those before.

    Args:
        pace: of the CPUs.
        patience_seconds: to wait in all.
        clock: seconds.
    """

    block_seconds = PACE_SECONDS

    def __init__(
        self, pace: Pace, patience_seconds: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._pace = pace
        self._patience_seconds = patience_seconds
        self._clock = clock

    @property
    def quiet_us(self) -> float | None:
        """Pace of the undisturbed machine, as far as seen."""
        return self._pace.quiet_us

    def look(self) -> Look:
        """The pace now, or once the machine is quiet."""
        pace_us = self._pace.read_us()
        if self._patience_seconds <= 0.0 or self._is_quiet(pace_us):
            return Look(pace_us=pace_us)
        start = self._clock()
        until = start + min(self._patience_seconds, LONGEST_WAIT_SECONDS)
        while not self._is_quiet(pace_us) and self._clock() < until:
            pace_us = self._pace.read_us()
        waited = self._clock() - start
        self._patience_seconds -= waited
        return Look(pace_us=pace_us, away=True, waited_seconds=waited)

    def _is_quiet(self, pace_us: float) -> bool:
        quiet_us = self._pace.quiet_us
        return quiet_us is None or pace_us <= quiet_us * SLOWED_FACTOR


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
