"""Ways to do the same, timed in turns: which is the fastest, and how sure that is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vnas.profiler.statistics import MedianInterval, median_interval

WARM_UP = 3
"""Steps that are not timed: kernels are chosen, memory is taken, the scale of float16's gradients comes down."""

BURST_SECONDS = 0.01
"""Least length of a turn of the first contender, so that waiting for a device is little of it."""

ROUNDS = 12
"""In which all contenders have their turns, every second one in reverse."""

LEAST_ROUNDS = 6
"""Below that, no interval holds the median with 95 %."""

HOPELESS = 2.0
"""Times as slow as the first contender in one turn: not raced."""

K = TypeVar("K")

Steps = Callable[[int], float]
"""Takes so many steps and returns the seconds that it took."""


@dataclass(frozen=True)
class Race(Generic[K]):
    """How long a step of each contender took.

    Attributes:
        seconds: a step, one value a round, by contender in the order of the race.
        hopeless: contenders that were not raced, and times as slow as the first they were in one turn.
        steps: in a turn.
    """

    seconds: Mapping[K, Sequence[float]]
    hopeless: Mapping[K, float]
    steps: int

    def gain(self, contender: K, over: K) -> MedianInterval:
        """Times as fast as another, round by round: median and 95 % interval."""
        pairs = zip(self.seconds[over], self.seconds[contender], strict=True)
        return median_interval([theirs / ours for theirs, ours in pairs])

    def beats(self, contender: K, other: K) -> bool:
        """Whether it is faster for sure: the whole interval of its gain says so."""
        return contender in self.seconds and self.gain(contender, other).low > 1.0

    def winner(self) -> K:
        """The fastest; a later contender takes the place of an earlier one only where it beats it for sure."""
        best, *others = self.seconds
        for contender in others:
            if self.beats(contender, best):
                best = contender
        return best

    def told(self, contender: K, over: K) -> str:
        """The gain in words."""
        if contender in self.hopeless:
            return f"{1.0 / self.hopeless[contender]:.2f}x as fast at a first look"
        gain = self.gain(contender, over)
        return f"{gain.median:.2f}x as fast ({gain.low:.2f} to {gain.high:.2f})"


def race(
    contenders: Sequence[K],
    make: Callable[[K], Steps],
    allowance: Callable[[float], float],
    clock: Callable[[], float] = time.perf_counter,
) -> Race[K] | float:
    """Let contenders take turns.

    Args:
        contenders: the plainest first.
        make: a contender's steps, ready to be taken.
        allowance: seconds that the race may take, from the seconds of a step of the first contender.
        clock: in seconds.

    Returns:
        The race; or the seconds of a step of the first contender, where so little is allowed that no race is possible.
    """
    began = clock()
    first = contenders[0]
    running = {first: make(first)}
    running[first](WARM_UP)
    step_seconds = running[first](1)
    limit = allowance(step_seconds)
    steps = max(1, math.ceil(BURST_SECONDS / step_seconds))
    if (LEAST_ROUNDS * steps + WARM_UP) * step_seconds * len(contenders) > limit:
        return step_seconds
    hopeless: dict[K, float] = {}
    pace = running[first](steps)
    for contender in contenders[1:]:
        made = make(contender)
        made(1)
        slowness = made(1) / step_seconds  # emulated arithmetic can be a hundred times as slow: one step shows it
        if slowness <= 2.0 * HOPELESS:
            made(WARM_UP - 2)
            slowness = made(steps) / pace
        if slowness > HOPELESS:
            hopeless[contender] = slowness
        else:
            running[contender] = made
    seconds: dict[K, list[float]] = {contender: [] for contender in running}
    for turn in range(ROUNDS):
        if turn >= LEAST_ROUNDS and clock() - began > limit:
            break
        for contender in list(running)[:: -1 if turn % 2 else 1]:
            seconds[contender].append(running[contender](steps) / steps)
    return Race(seconds, hopeless, steps)
