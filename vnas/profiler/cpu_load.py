"""How much of the machine's CPUs other processes use while a net is measured on them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vnas.profiler.telemetry import Contention

CONTENTION_CPUS = 0.1
"""Load of other processes from which a measurement on the CPU counts as contended; daemons stay below it."""

SHORTEST_WINDOW_SECONDS = 0.25
"""The kernel counts in ticks of a hundredth of a second, each CPU on its own: less tells nothing."""


def busy_seconds(stat: str, ticks_per_second: int) -> float | None:
    """CPU time that the machine has not idled, in the text of ``/proc/stat``, time stolen by other machines included.

    Args:
        stat: the text; its first line is ``cpu user nice system idle iowait irq softirq steal ...`` (proc(5)).
        ticks_per_second: ``sysconf(_SC_CLK_TCK)``.
    """
    fields = stat.partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu" or not all(field.isdigit() for field in fields[1:9]):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / ticks_per_second


class CpuLoad:
    """The machine's busy time less this process's own, between ``start`` and ``other_cpus``.

    Args:
        busy: the machine's busy time so far, in seconds; None where it cannot be read.
        own: this process's CPU time so far, in seconds.
        clock: seconds.
    """

    def __init__(
        self,
        busy: Callable[[], float | None] | None = None,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._busy = _machine_busy_seconds if busy is None else busy
        self._own = own
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._before = (self._busy(), self._own(), self._clock())

    def other_cpus(self) -> float | None:
        """CPUs' worth of work by others since ``start``; None where it cannot be told."""
        busy_before, own_before, start = self._before
        busy, own, elapsed = self._busy(), self._own() - own_before, self._clock() - start
        if busy is None or busy_before is None or elapsed < SHORTEST_WINDOW_SECONDS:
            return None
        if busy - busy_before < 0.5 * own:  # a sandbox that does not count even what this process did
            return None
        return max(busy - busy_before - own, 0.0) / elapsed


def cpu_contention(other_cpus: float | None) -> Contention:
    """``yes`` from ``CONTENTION_CPUS`` on; ``unknown`` where the load is."""
    if other_cpus is None:
        return "unknown"
    return "yes" if other_cpus >= CONTENTION_CPUS else "no"


def _machine_busy_seconds() -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return busy_seconds(Path("/proc/stat").read_text(encoding="ascii"), os.sysconf("SC_CLK_TCK"))
    except OSError:
        return None
