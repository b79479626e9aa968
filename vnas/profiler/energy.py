"""Energy of one call, from a counter that the device keeps of itself.

    idle, no calls                            | calls back to back
    ..........^=========^                     | ......^===========================^
              step      step, 1 s or more on  | warm  step                        step, the window or more on

The counter moves in steps: every 100 ms or so on a GPU (NVML), every millisecond in a CPU (RAPL). So a window lies
between two steps that were seen, and what its calls took is the difference of the two readings, exactly. How many calls
lie between the steps themselves is known less well: a step came at some time between two readings, some 10 ms apart.
That is the interval of the result.

On a GPU a reading overlaps with calls that were launched just before it, so that the device does not idle meanwhile.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vnas.errors import UsageError
from vnas.profiler.energy_readings import (
    STOOD_STILL,
    Call,
    Clock,
    EnergyCounter,
    Reading,
    Source,
    busy_readings,
    idle_readings,
    window_between_steps,
)

SHORTEST_WINDOW_SECONDS = 1.0
"""With 100 ms between the steps of a counter a shorter window says little."""

WARM_SECONDS = 0.5
"""Calls before the window: the device has idled, and its clocks and power come back."""

IDLE_AGREEMENT = 0.95
"""A device is idle when its power has stopped falling: a window takes at least this share of the one before."""

IDLE_WINDOWS = 8
"""Windows until then, at most."""


@dataclass(frozen=True)
class Energy:
    """Energy of one call, measured over a window of calls back to back.

    Attributes:
        source: ``nvml``, the GPU's total-energy counter, or ``rapl``, the CPU packages' counters.
        gross_mj: all that the device took, per call.
        gross_interval_mj: what the counter's steps leave open (low, high).
        net_mj: the same less what the device takes when idle; None where the idle power could not be measured.
        net_interval_mj: its interval, that of the idle power included.
        idle_w: power of the idle device.
        window_seconds: how long the calls ran.
        calls: how many there were.
        refresh_ms: between two steps of the counter, as seen.
    """

    source: Source
    gross_mj: float
    gross_interval_mj: tuple[float, float]
    net_mj: float | None
    net_interval_mj: tuple[float, float] | None
    idle_w: float | None
    window_seconds: float
    calls: int
    refresh_ms: float


@dataclass(frozen=True)
class IdlePower:
    """Power of the idle device, with what the counter's steps leave open.

    Attributes:
        watts: the power.
        low: the least that it can be.
        high: the most that it can be.
        step_seconds: the longest time between two steps, as seen.
    """

    watts: float
    low: float
    high: float
    step_seconds: float


def measure_energy(
    call: Call,
    finish: Call,
    counter: EnergyCounter | str,
    *,
    window_seconds: float = 5.0,
    idle_seconds: float = 1.0,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Energy | str:
    """Energy of one call: idle power first, then a window of calls back to back.

    Args:
        call: what is measured, ready to be called.
        finish: waits until the device is done.
        counter: of the device; or the reason why there is none, which is handed back.
        window_seconds: of calls, at least.
        idle_seconds: of each look at the idle device, at least; there are two or more.
        clock: seconds.
        sleep: waits so many seconds.

    Returns:
        The energy, or the reason why there is none.

    Raises:
        UsageError: a window under a second.
    """
    for name, seconds in (("window_seconds", window_seconds), ("idle_seconds", idle_seconds)):
        if not SHORTEST_WINDOW_SECONDS <= seconds < math.inf:
            raise UsageError(
                f"energy: {name} = {seconds:g}; it must be at least {SHORTEST_WINDOW_SECONDS:g}, better 5: the "
                "counter moves every 100 ms"
            )
    if isinstance(counter, str):
        return counter
    finish()
    idle = _settled_idle_power(idle_readings(counter, clock, sleep), idle_seconds)
    if isinstance(idle, str):
        return idle
    steps = window_between_steps(busy_readings(call, finish, counter, clock), window_seconds, WARM_SECONDS)
    finish()
    if isinstance(steps, str):
        return steps
    return energy_of_window(steps, counter.source, idle)


def energy_of_window(readings: Sequence[Reading], source: Source, idle: IdlePower | None) -> Energy | str:
    """Energy of one call from the readings between two steps of the counter.

    Args:
        readings: in order. The counter moved from the first to the second, and from the last but one to the last; the
            window lies between these two steps.
        source: of the counter.
        idle: power of the idle device; None where it is not known.

    Returns:
        The energy, or the reason why there is none.
    """
    first, last = readings[1], readings[-1]
    energy_mj = last.energy_mj - first.energy_mj
    seconds = last.begin - first.begin
    calls = last.done - first.done
    step_seconds = math.inf if idle is None else idle.step_seconds
    begins = _calls_at_step(readings[0], first, step_seconds)
    ends = _calls_at_step(readings[-2], last, step_seconds)
    fewest, most = ends[0] - begins[1], ends[1] - begins[0]
    if fewest <= 0:
        return (
            f"no energy: the {calls} calls in {seconds:.3g} s are too few for the steps of the counter; "
            "give a longer window"
        )
    gross = energy_mj / calls
    low, high = energy_mj / most, energy_mj / fewest
    net = net_interval = None
    if idle is not None:
        each = 1e3 * seconds / calls  # W to mJ a call
        net = gross - idle.watts * each
        net_interval = (low - idle.high * each, high - idle.low * each)
    return Energy(
        source=source,
        gross_mj=gross,
        gross_interval_mj=(low, high),
        net_mj=net,
        net_interval_mj=net_interval,
        idle_w=None if idle is None else idle.watts,
        window_seconds=seconds,
        calls=calls,
        refresh_ms=1e3 * statistics.median(_between_steps(readings)),
    )


def idle_power(readings: Sequence[Reading]) -> IdlePower:
    """Power from the readings of an idle device between two steps, given as to ``energy_of_window``."""
    first, last = readings[1], readings[-1]
    energy_mj = last.energy_mj - first.energy_mj
    gap = max(after.end - before.begin for before, after in itertools.pairwise(readings))
    return IdlePower(
        watts=energy_mj / (last.begin - first.begin) / 1e3,
        low=energy_mj / (last.end - readings[0].begin) / 1e3,
        high=energy_mj / (readings[-2].begin - first.end) / 1e3,
        step_seconds=max(_between_steps(readings)) + gap,
    )


def _calls_at_step(before: Reading, after: Reading, step_seconds: float) -> tuple[float, float]:
    """Calls' worth of work done when the counter took the value seen in ``after``, at least and at most.

    That was after the reading before, which still saw another value, and no longer ago than from one step to the next.
    """
    share = min(step_seconds / (after.begin - before.begin), 1.0)
    return after.done - share * (after.done - before.done), after.begun


def _between_steps(readings: Sequence[Reading]) -> list[float]:
    seen = [after.begin for before, after in itertools.pairwise(readings) if after.energy_mj != before.energy_mj]
    return [after - before for before, after in itertools.pairwise(seen)]


def _settled_idle_power(readings: Iterator[Reading | str], seconds: float) -> IdlePower | str | None:
    """Power once it has stopped falling; None where it does not, or where an idle device's counter stands still."""
    previous = math.inf
    for _ in range(IDLE_WINDOWS):
        window = window_between_steps(readings, seconds)
        if window == STOOD_STILL:
            return None
        if isinstance(window, str):
            return window
        found = idle_power(window)
        if found.watts >= IDLE_AGREEMENT * previous:
            return found
        previous = found.watts
    return None
