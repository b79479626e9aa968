"""The ratio of two medians and its interval, from the spread of what each median was taken of.

A latency has two sources of noise: from call to call inside a process, and from one fresh process to the next. Where
there are several processes on both sides, a process is one observation, its median's logarithm; the interval is
Welch's, so neither the number of processes nor their spread need be equal, and three processes give a wide interval
rather than a wrong one (a bootstrap of three a side covers 80 % where it says 95). With one process a side, stretches
of samples that follow each other take the place of processes. Nothing is drawn at random: the same files give the
same answer.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STRETCHES = 10
"""Stretches that one process is cut into: long ones, so that slow noise does not make them alike (10 to 30 are usual;
B. Schmeiser, Batch size effects in the analysis of simulation output, Operations Research 30(3), 1982)."""

ENOUGH_ROUNDS = 3
"""From so many rounds on, stretches are whole rounds: the samples of one round are alike, other rounds are not."""

Rounds = Sequence[Sequence[float]]
"""Samples of one process in ms, by round, in the order taken."""


@dataclass(frozen=True)
class Estimate:
    """Logarithm of a latency in ms, with the variance of that estimate and its degrees of freedom."""

    log_ms: float
    variance: float
    degrees: int


@dataclass(frozen=True)
class RatioInterval:
    """Where the true ratio lies, and what it was told from.

    Attributes:
        low: lower end.
        high: upper end; infinite where one sample a side says nothing of the noise, ``low`` is then 0.
        unit: ``processes``; ``borrowed``, where one side has a single process and the other's spread is taken for
            both; ``stretches`` of one process each.
    """

    low: float
    high: float
    unit: str


def ratio_interval(old: Sequence[Rounds], new: Sequence[Rounds], level: float = 0.95) -> RatioInterval:
    """Interval of the new median over the old one.

    Args:
        old: samples in ms of each process, by round; at least one sample a process.
        new: likewise.
        level: coverage.

    Raises:
        ValueError: no samples on a side, or a level outside (0, 1).
    """
    if not old or not new or not 0.0 < level < 1.0:
        raise ValueError(f"{len(old)} and {len(new)} processes at level {level}; it takes at least 1 each, in (0, 1)")
    if len(old) > 1 and len(new) > 1:
        unit, before, after = "processes", of_processes(old), of_processes(new)
        degrees = welch_degrees(before, after)
    elif len(old) == 1 and len(new) == 1:
        unit, before, after = "stretches", of_one_process(old[0]), of_one_process(new[0])
        degrees = welch_degrees(before, after)
    else:
        unit, several = "borrowed", max(old, new, key=len)
        spread = of_processes(several)
        alone = of_one_process(min(old, new, key=len)[0])
        variance = max(spread.variance * len(several), alone.variance)
        lone = Estimate(alone.log_ms, variance, spread.degrees)
        before, after = (spread, lone) if several is old else (lone, spread)
        degrees = spread.degrees  # one spread told both variances
    if not degrees:
        return RatioInterval(0.0, math.inf, unit)
    half = _t_quantile(degrees, level) * math.sqrt(before.variance + after.variance)
    half += (resolution(old) + resolution(new)) / 2
    change = after.log_ms - before.log_ms
    return RatioInterval(math.exp(change - half), math.exp(change + half), unit)


def of_processes(processes: Sequence[Rounds]) -> Estimate:
    """Mean of the processes' log medians; two processes or more."""
    logs = [math.log(statistics.median(_joined(rounds))) for rounds in processes]
    return Estimate(statistics.fmean(logs), statistics.variance(logs) / len(logs), len(logs) - 1)


def of_one_process(rounds: Rounds) -> Estimate:
    """Log median of all samples, its variance from the medians of stretches (batch means); 0 degrees for one sample."""
    pieces = stretches(rounds)
    logs = [math.log(statistics.median(piece)) for piece in pieces]
    variance = statistics.variance(logs) / len(logs) if len(logs) > 1 else 0.0
    return Estimate(math.log(statistics.median(_joined(rounds))), variance, len(logs) - 1)


def stretches(rounds: Rounds, most: int = STRETCHES) -> list[list[float]]:
    """The samples cut into at most ``most`` pieces of equal length, in order: of rounds where there are enough."""
    units: Rounds = [taken for taken in rounds if taken]
    if len(units) < ENOUGH_ROUNDS:
        units = [[sample] for sample in _joined(units)]
    count = min(most, len(units))
    cuts = [len(units) * i // count for i in range(count + 1)]
    return [_joined(units[start:end]) for start, end in itertools.pairwise(cuts)]


def resolution(processes: Sequence[Rounds]) -> float:
    """Step of the timer over the latency: the smallest difference of two samples of one process; 0 where none differ.

    A call of 20 us that events time in steps of .5 us may have the same median in every process, and is still not
    known to better than half a step.
    """
    steps = []
    for rounds in processes:
        values = sorted(set(_joined(rounds)))
        steps += [(high - low) / low for low, high in itertools.pairwise(values)]
    return min(steps, default=0.0)


def welch_degrees(one: Estimate, other: Estimate) -> float:
    """Degrees of freedom of the sum of two variances; 0 where one of them is not known.

    Source: B. L. Welch, The generalization of Student's problem when several different population variances are
    involved, Biometrika 34, 1947.
    """
    if not one.degrees or not other.degrees:
        return 0.0
    total = one.variance + other.variance
    if total == 0.0:
        return float(one.degrees + other.degrees)
    # As shares of the sum, so that no square of a small variance becomes 0.
    share = one.variance / total
    return 1.0 / (share**2 / one.degrees + (1.0 - share) ** 2 / other.degrees)


def _t_quantile(degrees: float, level: float) -> float:
    from scipy import special

    return float(special.stdtrit(degrees, (1.0 + level) / 2.0))


def _joined(rounds: Rounds) -> list[float]:
    return [sample for taken in rounds for sample in taken]
