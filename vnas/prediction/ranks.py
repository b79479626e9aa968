"""How far two orders of the same nets agree: Kendall's tau-b and Spearman's rho, with intervals by bootstrap over nets.

Shapes: N nets, R resamples; a resample is how often each net is in it, so every score is a sum weighed by counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

# Below this many nets a bootstrap repeats so few distinct samples that its interval says nothing.
MIN_FOR_INTERVAL = 8
RESAMPLES = 2000
# A pair matrix of this many nets takes 32 MB; beyond it the ranks of each resample are computed one by one.
MAX_PAIRS_IN_MEMORY = 2000


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % bootstrap interval; the ends are None where there are too few nets to tell."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How far scores put nets in the order of the truth; None where one of the two has no spread.

    Attributes:
        kendall_tau: tau-b, which allows for ties: pairs in the same order less pairs in the opposite one, as a share.
        spearman: correlation of the ranks, ties sharing their mean rank.
    """

    kendall_tau: Estimate | None
    spearman: Estimate | None


def agreement(truth: npt.ArrayLike, values: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """Both rank correlations of values with the truth, each with a 95 % percentile bootstrap over the nets.

    Args:
        truth: (N,) what is to be foretold, such as the accuracy after a long run.
        values: (N,) what foretells it; larger means better in both.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: lengths that differ, or a value that is not finite.
    """
    measured, foretold = _paired(truth, values)
    if len(measured) < 2:
        return Agreement(None, None)
    point = rank_statistics(measured, foretold, np.ones((1, len(measured))))
    counts = resampled_counts(len(measured), resamples, seed)
    resampled = {} if counts is None else rank_statistics(measured, foretold, counts)
    found = {name: estimate(float(value[0]), resampled.get(name)) for name, value in point.items()}
    return Agreement(found["kendall_tau"], found["spearman"])


def tau_advantage(
    truth: npt.ArrayLike, ours: npt.ArrayLike, other: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """Tau-b of ``ours`` with the truth less that of ``other``, with a paired interval.

    Both are scored on the same resamples, so that what they share, such as nets that are hard to tell apart, cancels.

    Args:
        truth: (N,) what is to be foretold.
        ours: (N,) one set of values.
        other: (N,) the other one.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        The difference, positive where ``ours`` agrees better; None where either tau is not defined.

    Raises:
        ValueError: lengths that differ, or a value that is not finite.
    """
    measured, first = _paired(truth, ours)
    _, second = _paired(truth, other)
    if len(measured) < 2:
        return None

    def difference(counts: Floats) -> Floats:
        taus = [rank_statistics(measured, values, counts)["kendall_tau"] for values in (first, second)]
        return np.asarray(taus[0] - taus[1], dtype=np.float64)

    counts = resampled_counts(len(measured), resamples, seed)
    point = difference(np.ones((1, len(measured))))
    return estimate(float(point[0]), None if counts is None else difference(counts))


def resampled_counts(n: int, resamples: int, seed: int) -> Floats | None:
    """(R, N) how often each net is in each bootstrap sample of N; None where there are too few nets for an interval."""
    if n < MIN_FOR_INTERVAL:
        return None
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    return counts.astype(np.float64)


def rank_statistics(measured: Floats, predicted: Floats, counts: Floats) -> dict[str, Floats]:
    """``kendall_tau`` and ``spearman`` of each resample, NaN where they are not defined.

    Args:
        measured: (N,) the truth.
        predicted: (N,) what is scored.
        counts: (R, N) how often each net is in each resample; every row adds up to N.

    Returns:
        (R,) for each of the two.
    """
    if len(measured) <= MAX_PAIRS_IN_MEMORY:
        return _by_pairs(measured, predicted, counts)
    return _one_by_one(measured, predicted, counts)


def estimate(value: float, resampled: Floats | None) -> Estimate | None:
    """A score with the interval of its resamples; None where the score is not defined."""
    if not np.isfinite(value):
        return None
    if resampled is None:
        return Estimate(value)
    known = resampled[np.isfinite(resampled)]
    # A score that most resamples cannot define has no interval worth printing.
    if len(known) < len(resampled) / 2:
        return Estimate(value)
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _paired(truth: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Floats, Floats]:
    measured, foretold = np.asarray(truth, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != foretold.shape:
        raise ValueError(f"the truth has shape {measured.shape}, the values {foretold.shape}; both must be (N,)")
    if not (np.isfinite(measured).all() and np.isfinite(foretold).all()):
        raise ValueError("truth and values must be finite; drop other nets first")
    return measured, foretold


def _quadratic(counts: Floats, matrix: Floats) -> Floats:
    weighted: Floats = ((counts @ matrix) * counts).sum(axis=1)
    return weighted


def _by_pairs(measured: Floats, predicted: Floats, counts: Floats) -> dict[str, Floats]:
    # Both are sums over pairs of nets, so a resample only weighs the pairs: w' S w.
    signs = [np.sign(x[:, None] - x[None, :]) for x in (measured, predicted)]  # (N, N)
    agree = _quadratic(counts, signs[0] * signs[1])
    untied = [_quadratic(counts, np.abs(sign)) for sign in signs]
    # Mean rank in the resample, less a constant: nets below, plus half of those level with it.
    ranks = [counts @ (0.5 + 0.5 * sign).T for sign in signs]  # (R, N)
    n = counts.sum(axis=1, keepdims=True)
    centred = [rank - (counts * rank).sum(axis=1, keepdims=True) / n for rank in ranks]
    products = (counts * centred[0] * centred[1]).sum(axis=1)
    spread = [(counts * c**2).sum(axis=1) for c in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "kendall_tau": agree / np.sqrt(untied[0] * untied[1]),
            "spearman": products / np.sqrt(np.where(spread[0] * spread[1] > 0, spread[0] * spread[1], np.nan)),
        }


def _one_by_one(measured: Floats, predicted: Floats, counts: Floats) -> dict[str, Floats]:
    def each(statistic: Callable[[Floats, Floats], float]) -> Floats:
        picks = (np.repeat(np.arange(len(measured)), row.astype(int)) for row in counts)
        return np.array([statistic(measured[pick], predicted[pick]) for pick in picks])

    def defined(statistic: Callable[[Floats, Floats], float], x: Floats, y: Floats) -> float:
        return float("nan") if np.ptp(x) == 0 or np.ptp(y) == 0 else statistic(x, y)

    return {
        "kendall_tau": each(lambda x, y: defined(lambda a, b: float(stats.kendalltau(a, b).statistic), x, y)),
        "spearman": each(lambda x, y: defined(lambda a, b: float(stats.spearmanr(a, b).statistic), x, y)),
    }
