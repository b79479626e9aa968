"""How well predicted latencies tell measured ones, out of sample, with an interval on every score.

nets, each architecture once
   +-- half A: fit line A -- predicts half B -- scores (the headline: one line, one judged half)
   +-- half B: fit line B -- predicts half A -- so that every net has a prediction made without it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from vnas.prediction.linear import FittedPredictor, Predictor
from vnas.prediction.ranks import RESAMPLES, Estimate, estimate, rank_statistics, resampled_counts

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Agreement of predicted with measured latency over n nets; None where a score is not defined.

    Attributes:
        n: number of nets.
        r2: 1 - SS_residual / SS_total about the mean of these nets; negative when worse than that mean.
        rmse_ms: root of the mean squared error, in ms.
        rmspe: root of the mean squared relative error, in percent of the measured latency.
        within_5: share of nets within 5 % of the measured latency, in percent.
        within_10: share of nets within 10 %, in percent.
        kendall_tau: tau-b, which allows for ties.
        spearman: correlation of the ranks, ties sharing their mean rank.
    """

    n: int
    r2: Estimate | None
    rmse_ms: Estimate | None
    rmspe: Estimate | None
    within_5: Estimate | None
    within_10: Estimate | None
    kendall_tau: Estimate | None
    spearman: Estimate | None


@dataclass(frozen=True, eq=False)
class Judgement:
    """A predictor judged on the half of the nets that it was not fitted on.

    Arrays have one entry a row of the judged frame, in its order.

    Attributes:
        predictor: what was judged.
        seed: seed of the split and of the bootstrap.
        judged: (N,) True for the half that ``scores`` is about; the line of ``fitted`` did not see it.
        fitted: fitted on the other half; None where that half is too small.
        fitted_ms: (N,) what ``fitted`` says of every net, its own half included; NaN where it cannot.
        out_of_sample_ms: (N,) for each net the prediction of the line fitted on the half without it; NaN
            where there is none.
        scores: of ``fitted`` on the judged half; None with too few nets.
    """

    predictor: Predictor
    seed: int
    judged: Mask
    fitted: FittedPredictor | None
    fitted_ms: Floats
    out_of_sample_ms: Floats
    scores: Scores | None


def _counts_statistics(measured: Floats, predicted: Floats, counts: Floats) -> dict[str, Floats]:
    # counts: (R, N) how often each net is in each resample; every row adds up to N.
    n = counts.sum(axis=1)
    error = predicted - measured
    relative = np.abs(error / measured)
    squares = counts @ error**2
    mean = counts @ measured / n
    total = counts @ measured**2 - n * mean**2
    # Rounding leaves a total of about 1e-16 of the squares where all latencies are equal.
    total[total <= 1e-12 * (counts @ measured**2)] = np.nan
    return {
        "r2": 1.0 - squares / total,
        "rmse_ms": np.sqrt(squares / n),
        "rmspe": 100.0 * np.sqrt(counts @ relative**2 / n),
        "within_5": 100.0 * (counts @ (relative <= 0.05)) / n,
        "within_10": 100.0 * (counts @ (relative <= 0.10)) / n,
    }


def _statistics(measured: Floats, predicted: Floats, counts: Floats) -> dict[str, Floats]:
    return _counts_statistics(measured, predicted, counts) | rank_statistics(measured, predicted, counts)


def scores(
    measured_ms: npt.ArrayLike, predicted_ms: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Scores:
    """Score predictions against measurements, each score with a 95 % percentile bootstrap over the nets.

    Args:
        measured_ms: (N,) measured latencies in ms, positive.
        predicted_ms: (N,) predicted latencies in ms.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        The scores. With fewer than two nets, or without any spread, those that need it are None; with fewer
        than ``ranks.MIN_FOR_INTERVAL`` nets there are no intervals.

    Raises:
        ValueError: lengths that differ, or a measured latency that is not positive and finite.
    """
    measured = np.asarray(measured_ms, dtype=np.float64)
    predicted = np.asarray(predicted_ms, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != predicted.shape:
        raise ValueError(f"measured has shape {measured.shape}, predicted {predicted.shape}; both must be (N,)")
    if not (np.isfinite(measured).all() and (measured > 0).all() and np.isfinite(predicted).all()):
        raise ValueError("measured latencies must be positive and finite, predicted ones finite; drop other rows first")
    n = len(measured)
    if n == 0:
        return Scores(0, None, None, None, None, None, None, None)
    point = _statistics(measured, predicted, np.ones((1, n)))
    counts = resampled_counts(n, resamples, seed)
    resampled = {} if counts is None else _statistics(measured, predicted, counts)
    estimates = {name: estimate(float(value[0]), resampled.get(name)) for name, value in point.items()}
    return Scores(n=n, **estimates)


def split_half(n: int, seed: int) -> Mask:
    """A random half of n nets: True for the n // 2 to be judged, the rest is to fit on."""
    judged = np.zeros(n, dtype=bool)
    judged[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return judged


def unique_nets(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with a measured latency, each architecture once (the first with its digest), index kept.

    Args:
        frame: with columns ``digest`` and ``latency_ms``.
    """
    measured = frame[frame["digest"].notna() & frame["latency_ms"].notna()]
    return measured.drop_duplicates("digest", keep="first")


def judge(frame: pd.DataFrame, predictor: Predictor, seed: int) -> Judgement:
    """Fit on one half of the nets, judge on the other.

    A half that is fitted needs two nets more than the predictor has features, so that a residual is left.

    Args:
        frame: each architecture once (see :func:`unique_nets`), with columns ``digest``, ``latency_ms`` and
            the predictor's features; a row that lacks one of them has no prediction.
        predictor: what to judge.
        seed: seed of the split and of the bootstrap; the same frame and seed split the same way for all.

    Raises:
        ValueError: an architecture is there twice.
    """
    if frame["digest"].duplicated().any():
        raise ValueError("an architecture is in the frame twice, so it could be fitted and judged; use unique_nets")
    judged = split_half(len(frame), seed)
    columns = [*predictor.features, "latency_ms"]
    complete = np.ones(len(frame), dtype=bool)
    for name in columns:
        complete &= frame[name].notna().to_numpy() if name in frame.columns else False
    fitted_ms = np.full(len(frame), np.nan)
    out_of_sample_ms = np.full(len(frame), np.nan)

    def fit(half: Mask) -> FittedPredictor | None:
        rows = frame[half & complete]
        if len(rows) < len(predictor.features) + 2:
            return None
        return predictor.fit(rows, rows["latency_ms"].to_numpy(dtype=np.float64))

    first, second = fit(~judged), fit(judged)
    if first is not None:
        fitted_ms[complete] = first.predict(frame[complete])
        out_of_sample_ms[judged] = fitted_ms[judged]
    if second is not None and (other := complete & ~judged).any():
        out_of_sample_ms[other] = second.predict(frame[other])
    test = judged & complete
    result = None
    if first is not None and test.sum() >= 2:
        result = scores(frame["latency_ms"].to_numpy(dtype=np.float64)[test], fitted_ms[test], seed=seed)
    return Judgement(predictor, seed, judged, first, fitted_ms, out_of_sample_ms, result)
