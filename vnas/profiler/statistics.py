"""The median and its distribution-free interval: no assumption about the shape of the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[float] | NDArray[np.float64]


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


def dependence(samples: Samples) -> float:
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
    values = np.asarray(samples, dtype=np.float64)
    above = (values > np.median(values))[: batches * size].reshape(batches, size)
    share = float(above.mean())
    if share in (0.0, 1.0):
        return 1.0
    ratio = float(above.mean(axis=1).var(ddof=1)) / (share * (1.0 - share) / size)
    return ratio if ratio > _chance_limit(batches - 1) else 1.0


@lru_cache(maxsize=64)
def _chance_limit(degrees: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(degrees, 0.005)) / degrees


def median_interval(samples: Samples, level: float = 0.95, worth: float = 1.0) -> MedianInterval:
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
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    independent = n if worth <= 1.0 else max(int(n / worth), 1)
    rank = interval_rank(independent, level)
    at = rank if independent == n else max(int(rank / (independent + 1) * (n + 1)), 1)
    return MedianInterval(
        median=float((ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0),
        low=float(ordered[at - 1]),
        high=float(ordered[-at]),
        level=coverage(independent, rank),
    )


def between_processes(rounds: Sequence[Sequence[float]], level: float = 0.95) -> float:
    """Half width, on the log scale, of where the median of another such call would lie.

    Logs of the rounds' medians are ``mu + process + round``, both normal, and gamma is the ratio of their standard
    deviations. Three processes alone say little about gamma, and to take it as unknown (Student's t of K - 1 degrees
    for the processes' medians) gives intervals that are honest and of no use. The rounds within them say how much of
    the difference is of no process. So gamma is averaged over, by its likelihood and a prior ``(1 + gamma)^-1.5``;
    for each gamma the other call's estimate is a t of N - 1 degrees about this one. With one round a process gamma
    does not matter, and it is the t of K - 1 degrees.

    Source: the one-way random-effects model, e.g. G. E. P. Box and G. C. Tiao, Bayesian Inference in Statistical
    Analysis, chapter 5; coverage by simulation in tests/profiler/test_profiler_merging.py.

    Args:
        rounds: for each process, at least two, the medians of its rounds.
        level: of the interval.
    """
    import numpy as np
    from scipy.special import stdtr

    logs = [[math.log(median) for median in of_process] for of_process in rounds]
    everything = [value for of_process in logs for value in of_process]
    if max(everything) - min(everything) < 1e-12:
        return 0.0
    degrees = len(everything) - 1
    grid = [math.expm1(_GAMMA_LIMIT_LOG * i / (_GAMMAS - 1)) for i in range(_GAMMAS)]
    scales, likelihoods = map(np.array, zip(*(_given_gamma(logs, gamma) for gamma in grid), strict=True))
    widest = float(scales.max())
    # A grid that is even in log(1 + gamma) has a density of 1 / (1 + gamma) itself.
    weights = np.exp(likelihoods - likelihoods.max()) * (1.0 + np.array(grid)) ** (1.0 - _TAIL)
    weights /= weights.sum()

    def beyond(half: float) -> float:
        """Chance that the other call lies further off than ``half``."""
        return float((weights * 2.0 * stdtr(degrees, -half / scales)).sum())

    low, high = 0.0, widest
    while beyond(high) > 1.0 - level:
        high *= 2.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if beyond(middle) > 1.0 - level else (low, middle)
    return high


_GAMMAS = 80
_TAIL = 1.5
"""The prior's density falls with this power of 1 + gamma: 10 is exceeded in 30 % of cases beforehand. At 1 the t of
K - 1 degrees is the limit, and two processes leave everything open; at 2 processes that differ are not covered."""
_GAMMA_LIMIT_LOG = math.log1p(300.0)


def _given_gamma(logs: Sequence[Sequence[float]], gamma: float) -> tuple[float, float]:
    """Scale of the difference between two calls, and the log marginal likelihood, for one gamma.

    With V = I + gamma^2 J for the rounds of a process, 1' V^-1 1 = n / (1 + n gamma^2) is its weight and
    |V| = 1 + n gamma^2; the mean has a flat prior, the rounds' variance 1 / sigma^2.
    """
    sizes = [len(of_process) for of_process in logs]
    means = [statistics.fmean(of_process) for of_process in logs]
    weights = [n / (1.0 + n * gamma * gamma) for n in sizes]
    total = math.fsum(weights)
    mean = math.fsum(weight * value for weight, value in zip(weights, means, strict=True)) / total
    within = math.fsum((x - m) ** 2 for of_process, m in zip(logs, means, strict=True) for x in of_process)
    squares = within + math.fsum(weight * (m - mean) ** 2 for weight, m in zip(weights, means, strict=True))
    degrees = sum(sizes) - 1
    scale = math.sqrt(2.0 * squares / degrees / total)
    determinants = math.fsum(math.log1p(n * gamma * gamma) for n in sizes)
    residual = math.log(squares) if squares > 0.0 else -math.inf
    return scale, -0.5 * (determinants + math.log(total) + degrees * residual)
