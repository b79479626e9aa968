"""Readings of an energy counter, of an idle device and of one that calls keep busy, and the steps seen among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Source = Literal["nvml", "rapl"]
Call = Callable[[], object]
Clock = Callable[[], float]  # seconds

POLL_SECONDS = 0.01
"""Between two readings: a reading takes some 100 us of the host."""

STILL_SECONDS = 3.0
"""A counter that has not moved for so long stands still."""

_MOST_OVERLAPPING = 64
"""Calls that a reading may overlap with."""

STOOD_STILL = f"no energy: the counter stood still for {STILL_SECONDS:g} s"


class EnergyCounter(Protocol):
    """A device's count of the energy that it has taken so far."""

    @property
    def source(self) -> Source:
        """Which kind of counter this is."""
        ...

    @property
    def reason(self) -> str | None:
        """Why the last reading was None."""
        ...

    def read_mj(self) -> float | None:
        """Millijoules since some time in the past; None where they cannot be read."""
        ...


@dataclass(frozen=True)
class Reading:
    """One reading of the counter.

    Attributes:
        begin: seconds, before it.
        end: seconds, after it.
        done: calls that were over at ``begin``, for certain.
        begun: calls that had been made by then; those that were not over ran during the reading.
        energy_mj: what the counter said.
    """

    begin: float
    end: float
    done: int
    begun: int
    energy_mj: float


def window_between_steps(
    readings: Iterator[Reading | str], seconds: float, warm_seconds: float = 0.0
) -> list[Reading] | str:
    """The readings from just before a step of the counter to the first step so many seconds later.

    Args:
        readings: without end, or ending with a reason.
        seconds: between the two steps, at least.
        warm_seconds: before the first of them, at least.

    Returns:
        The counter moves from the first reading to the second, and from the last but one to the last; or the reason
        why there is no such window.
    """
    begun = moved = None
    kept: list[Reading] = []
    for reading in readings:
        if isinstance(reading, str):
            return reading
        if begun is None or moved is None:
            begun = moved = reading.end
        if kept and reading.energy_mj < kept[-1].energy_mj:
            return "no energy: the counter went backwards"
        steps = bool(kept) and reading.energy_mj > kept[-1].energy_mj
        moved = reading.end if steps else moved
        if len(kept) > 1 or (steps and reading.end - begun >= warm_seconds):
            kept.append(reading)
        else:
            kept = [reading]  # before the window only the last reading matters
        if len(kept) > 2 and steps and kept[-2].begin - kept[1].end >= seconds:
            return kept
        if reading.end - moved >= STILL_SECONDS:
            return STOOD_STILL
    raise AssertionError("readings do not end")


def idle_readings(counter: EnergyCounter, clock: Clock, sleep: Callable[[float], object]) -> Iterator[Reading | str]:
    """A reading every ``POLL_SECONDS``, without calls."""
    while True:
        begin = clock()
        energy_mj = counter.read_mj()
        if energy_mj is None:
            yield _unreadable(counter)
            return
        yield Reading(begin, clock(), 0, 0, energy_mj)
        sleep(POLL_SECONDS)


def busy_readings(call: Call, finish: Call, counter: EnergyCounter, clock: Clock) -> Iterator[Reading | str]:
    """A reading every ``POLL_SECONDS`` or every call, whatever is longer, while calls run back to back.

    The queue is never longer than the calls between two readings.
    """
    asynchronous = counter.source == "nvml"
    between, overlapping = 1, int(asynchronous)
    made = done = 0
    begin = clock()
    while True:
        for _ in range(between):
            call()
        finish()
        done_before, begin_before = done, begin
        done, begin = made + between, clock()
        for _ in range(overlapping):
            call()
        made = done + overlapping
        read = clock()
        energy_mj = counter.read_mj()
        end = clock()
        if energy_mj is None:
            yield _unreadable(counter)
            return
        yield Reading(begin, end, done, made, energy_mj)
        each = max((begin - begin_before) / (done - done_before), 1e-9)
        if asynchronous:
            overlapping = min(max(math.ceil((end - read) / each), 1), _MOST_OVERLAPPING)
        between = min(max(round(POLL_SECONDS / each) - overlapping, int(not asynchronous)), 2 * between + 1)


def _unreadable(counter: EnergyCounter) -> str:
    return f"no energy: {counter.reason or 'the counter cannot be read'}"
