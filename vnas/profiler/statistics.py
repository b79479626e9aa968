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


def median_interval(samples: Sequence[float], level: float = 0.95) -> MedianInterval:
    """Median of the samples and its order-statistic interval.

    Args:
        samples: at least one number, in any order.
        level: coverage to reach. With fewer than 6 samples 95 % cannot be reached: the interval is then the
            smallest to the largest sample, and ``level`` of the result says what that covers.

    Returns:
        MedianInterval, in the unit of the samples.

    Raises:
        ValueError: no samples, or a level outside (0, 1).
    """
    ordered = sorted(samples)
    rank = interval_rank(len(ordered), level)
    return MedianInterval(
        median=statistics.median(ordered),
        low=ordered[rank - 1],
        high=ordered[-rank],
        level=coverage(len(ordered), rank),
    )
