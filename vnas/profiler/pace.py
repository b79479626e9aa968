"""The pace of the machine's CPUs: a reference operation, timed between samples.

A CPU in a shared machine has states that nothing tells of: its threads hand work to each other slower for seconds
or minutes at a time (the cores lie further apart, or a neighbour uses their cache), and a net of many small
operations then takes half as long again. No counter shows it. An addition that two threads share is nearly all
handing over, so its time shows the state within a tenth of a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

GRAIN = 32_768
"""Elements that torch gives a thread at least (at::internal::GRAIN_SIZE)."""

MOST_THREADS = 8
"""Beyond these the operand would push the net's own data out of the caches."""

BURST = 10
BURSTS = 3

LONGEST_BURST_NS = 500_000
"""Where more threads want to run than there are CPUs, one operation may take as long as a scheduler's slice; a reading
then ends with it, and says what it has seen."""


class HandoffPace:
    """Times the reference operation with torch's threads as they are set.

    Args:
        known_quiet_us: pace of the undisturbed machine as seen elsewhere with as many threads, e.g. by other
            processes of the same call.
        clock: nanoseconds.
    """

    def __init__(self, known_quiet_us: float | None = None, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._values = torch.zeros(GRAIN * min(torch.get_num_threads(), MOST_THREADS) + 64)
        self._known_us = known_quiet_us
        self._lowest: list[float] = []

    @property
    def seen_us(self) -> float | None:
        """The second lowest reading, so that no single one decides; None before the first."""
        return self._lowest[-1] if self._lowest else None

    @property
    def quiet_us(self) -> float | None:
        """Pace of the undisturbed machine: the lower of what was known and what was seen."""
        return min((one for one in (self._known_us, self.seen_us) if one is not None), default=None)

    def read_us(self) -> float:
        """Microseconds of the operation: the best of a few short bursts, so that an interrupt does not count."""
        clock, values = self._clock, self._values
        best = float("inf")
        for _ in range(BURSTS):
            start = clock()
            count = taken = 0
            while count < BURST and taken < LONGEST_BURST_NS:
                values.add_(1.0)
                count += 1
                taken = clock() - start
            best = min(best, taken / 1e3 / count)
            if taken >= LONGEST_BURST_NS:
                break
        self._lowest = sorted([*self._lowest, best])[:2]
        return best
