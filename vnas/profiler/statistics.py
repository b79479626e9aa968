"""The median and its distribution-free interval: no assumption about the shape of the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class MedianInterval:
    """A median with the interval that covers the true one.

    Attributes:
        median: middle of the samples, in their unit.
        low: lower end, itself one of the samples.
        high: upper end, itself one of the samples.
        level: exact coverage of ``(low, high)`` for independent samples of any continuous distribution; below
            the level that was asked for where there are too few samples (95 % needs 6).
    """

    median: float
    low: float
    high: float
    level: float

    @property
    def relative_width(self) -> float:
        """``(high - low) / median``."""
        return (self.high - self.low) / self.median


def coverage(n: int, rank: int) -> float:
    """Probability that the true median lies between the samples of ranks ``rank`` and ``n + 1 - rank``.

    With X ~ Binomial(n, 1/2) the number of samples below the median, that is 1 - 2 P(X < rank).

    Source: H. A. David and H. N. Nagaraja, Order Statistics, 3rd edition, section 7.1.
    """
    if not 1 <= rank <= (n + 1) // 2:
        raise ValueError(f"rank {rank} of {n} samples; allowed are 1 .. {(n + 1) // 2}")
    successes = rank - 1
    # The largest term of the tail by log-gamma, the others by their ratio: exact to rounding, in O(sqrt(n)).
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(successes + 1) - math.lgamma(n - successes + 1) - n * math.log(2.0)
    )
    tail = 0.0
    while term > tail * 1e-17:
        tail += term
        term *= successes / (n - successes + 1)
        successes -= 1
    return 1.0 - 2.0 * tail


@lru_cache(maxsize=4096)
def interval_rank(n: int, level: float = 0.95) -> int:
    """The largest rank k for which samples k and n + 1 - k cover the median at ``level``; 1 if none does.

    Args:
        n: number of samples.
        level: coverage to reach, in (0, 1).

    Raises:
        ValueError: no samples, or a level outside (0, 1).
    """
    if n < 1:
        raise ValueError(f"{n} samples; an interval needs at least 1")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level}; it lies between 0 and 1, e.g. 0.95")
    normal = statistics.NormalDist().inv_cdf((1.0 + level) / 2.0)
    rank = min(max(int((n - normal * math.sqrt(n)) / 2.0), 1), (n + 1) // 2)
    while rank > 1 and coverage(n, rank) < level:
        rank -= 1
    while rank + 1 <= (n + 1) // 2 and coverage(n, rank + 1) >= level:
        rank += 1
    return rank


def dependence(samples: Sequence[float]) -> float:
    """How many samples are worth one independent sample, for their median: 1.0 where they look independent.

    Successive samples are cut into batches, and the share above the common median is taken in each. Independent
    samples spread these shares by ``p (1 - p) / m``; drift and spells spread them further, and the ratio of the two
    is the factor by which the variance of the median grows. It counts only where chance would exceed it in one of
    two hundred cases, so that independent samples keep their interval.

    Source: batch means, e.g. A. M. Law, Simulation Modeling and Analysis, chapter 9; over an indicator, because the
    median's variance depends on nothing else (R. R. Bahadur, A note on quantiles in large samples, 1966).

    Args:
        samples: in the order taken. Fewer than 30 are taken as independent.
    """
    n = len(samples)
    if n < 30:
        return 1.0
    batches = min(20, n // 5)
    size = n // batches
    median = statistics.median(samples)
    above = [sample > median for sample in samples[: batches * size]]
    share = sum(above) / len(above)
    if share in (0.0, 1.0):
        return 1.0
    means = [sum(above[i : i + size]) / size for i in range(0, len(above), size)]
    ratio = statistics.variance(means) / (share * (1.0 - share) / size)
    return ratio if ratio > _chance_limit(batches - 1) else 1.0


@lru_cache(maxsize=64)
def _chance_limit(degrees: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(degrees, 0.005)) / degrees


def median_interval(samples: Sequence[float], level: float = 0.95, worth: float = 1.0) -> MedianInterval:
    """Median of the samples and its order-statistic interval.

    Args:
        samples: at least one number, in any order.
        level: coverage to reach. With fewer than 6 samples 95 % cannot be reached: the interval is then the
            smallest to the largest sample, and ``level`` of the result says what that covers.
        worth: samples that are worth one independent one (``dependence``).

    Returns:
        MedianInterval, in the unit of the samples.

    Raises:
        ValueError: no samples, or a level outside (0, 1).
    """
    ordered = sorted(samples)
    n = len(ordered)
    independent = n if worth <= 1.0 else max(int(n / worth), 1)
    rank = interval_rank(independent, level)
    at = rank if independent == n else max(int(rank / (independent + 1) * (n + 1)), 1)
    return MedianInterval(
        median=statistics.median(ordered),
        low=ordered[at - 1],
        high=ordered[-at],
        level=coverage(independent, rank),
    )


def between_processes(medians: Sequence[float], standard_errors: Sequence[float], level: float = 0.95) -> float:
    """Half width of the interval of another such call's median, as a share of the median.

    With K processes of log medians x and standard deviation s, the difference to the mean of K others is
    ``t_{K-1} s sqrt(2 / K)`` at most, at the given level. The processes are never taken to agree better than the
    samples within each of them allow.

    Source: prediction interval of a mean, e.g. G. J. Hahn and W. Q. Meeker, Statistical Intervals, section 4.8.

    Args:
        medians: one a process, at least two.
        standard_errors: of each, relative to it, from the samples within the process.
        level: of the interval.
    """
    from scipy.special import stdtrit

    count = len(medians)
    logs = [math.log(median) for median in medians]
    within = statistics.fmean(error * error for error in standard_errors)
    spread = math.sqrt(max(statistics.variance(logs), within))
    return float(stdtrit(count - 1, (1.0 + level) / 2.0)) * spread * math.sqrt(2.0 / count)
