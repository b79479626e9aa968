from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vnas.prediction import PREDICTORS, Estimate, LinearPredictor, judge, ranks, scores, split_half, unique_nets

positive = st.integers(1, 12).map(float)


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def test_scores_by_hand() -> None:
    # Errors 1, -1, 0, 0 about a mean of 2.5: SS_residual 2, SS_total 5; relative errors 1, 1/2, 0, 0.
    found = scores([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0])
    assert found.n == 4
    assert value(found.r2) == pytest.approx(1 - 2 / 5)
    assert value(found.rmse_ms) == pytest.approx((2 / 4) ** 0.5)
    assert value(found.rmspe) == pytest.approx(100 * ((1 + 0.25) / 4) ** 0.5)
    assert value(found.within_5) == value(found.within_10) == 50.0
    # One of six pairs is the wrong way round.
    assert value(found.kendall_tau) == pytest.approx((5 - 1) / 6)
    # d = 1, -1: rho = 1 - 6 * 2 / (4 * 15).
    assert value(found.spearman) == pytest.approx(1 - 12 / 60)


def test_the_edges_of_within() -> None:
    found = scores([100.0, 100.0, 100.0, 100.0], [105.0, 105.1, 110.0, 89.9])
    assert value(found.within_5) == 25.0
    assert value(found.within_10) == 75.0


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=30))
def test_ranks_as_scipy(pairs: list[tuple[float, float]]) -> None:
    measured, predicted = map(np.array, zip(*pairs, strict=True))
    found = scores(measured, predicted, resamples=20)
    if np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        assert found.kendall_tau is None
        assert found.spearman is None
    else:
        assert value(found.kendall_tau) == pytest.approx(stats.kendalltau(measured, predicted).statistic, abs=1e-12)
        assert value(found.spearman) == pytest.approx(stats.spearmanr(measured, predicted).statistic, abs=1e-12)


def test_each_resample_is_scored_as_scipy_would(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    measured = random.integers(1, 9, 15).astype(float)
    predicted = measured + random.integers(-2, 3, 15)
    fast = scores(measured, predicted, seed=4, resamples=200)
    monkeypatch.setattr(ranks, "MAX_PAIRS_IN_MEMORY", 1)
    one_by_one = scores(measured, predicted, seed=4, resamples=200)
    for name in ("kendall_tau", "spearman"):
        first, second = getattr(fast, name), getattr(one_by_one, name)
        assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_an_interval_covers_as_often_as_it_says() -> None:
    # Correlation .8: Kendall's tau of a bivariate normal is 2 / pi * asin(.8) = .5903.
    random, truth, covered = np.random.default_rng(0), 2 / np.pi * np.arcsin(0.8), 0
    for seed in range(100):
        x = random.standard_normal(60)
        y = 0.8 * x + 0.6 * random.standard_normal(60)
        found = scores(x + 10.0, y + 10.0, seed=seed, resamples=300).kendall_tau
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 86 <= covered <= 100


def test_what_is_not_defined_is_none() -> None:
    constant = scores([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert constant.kendall_tau is None
    assert constant.spearman is None
    assert value(constant.r2) == pytest.approx(0.0)
    level = scores([0.1] * 10, [0.1, 0.2] * 5)
    assert level.r2 is None
    assert level.kendall_tau is None
    assert scores([], []).r2 is None
    assert scores([], []).within_10 is None
    assert scores([1.0], [1.0]).r2 is None


def test_intervals_need_some_nets() -> None:
    few = scores(np.arange(1.0, 8.0), np.arange(1.0, 8.0))
    assert few.within_10 == Estimate(100.0, None, None)
    some = scores(np.arange(1.0, 9.0), np.arange(1.0, 9.0))
    assert some.within_10 == Estimate(100.0, 100.0, 100.0)


def test_the_bootstrap_is_seeded() -> None:
    random = np.random.default_rng(1)
    measured, predicted = random.uniform(1, 2, 20), random.uniform(1, 2, 20)
    assert scores(measured, predicted, seed=1) == scores(measured, predicted, seed=1)
    assert scores(measured, predicted, seed=1) != scores(measured, predicted, seed=2)


@pytest.mark.parametrize(
    ("measured", "predicted"),
    [([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([-1.0], [1.0]), ([np.nan], [1.0]), ([1.0], [np.inf]), ([[1.0]], [[1.0]])],
)
def test_scores_refuse(measured: object, predicted: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        scores(measured, predicted)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_a_half_is_a_half(n: int, seed: int) -> None:
    judged = split_half(n, seed)
    assert judged.sum() == n // 2
    assert (judged == split_half(n, seed)).all()


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    macs = random.integers(10, 1000, n) * 1_000_000
    return pd.DataFrame(
        {
            "digest": [f"{i:012x}" for i in range(n)],
            "macs": macs,
            "depth": random.integers(3, 9, n),
            "latency_ms": 1.0 + 2e-9 * macs + 0.05 * random.random(n),
        }
    )


def test_no_net_is_predicted_by_a_line_that_saw_it() -> None:
    table = frame(21)
    whole = judge(table, PREDICTORS["flops"], seed=5)
    for row in range(len(table)):
        changed = table.copy()
        changed.loc[row, "latency_ms"] = 1000.0
        again = judge(changed, PREDICTORS["flops"], seed=5)
        assert again.out_of_sample_ms[row] == whole.out_of_sample_ms[row]
        other = whole.judged != whole.judged[row]
        assert (again.out_of_sample_ms[other] != whole.out_of_sample_ms[other]).all()


def test_the_headline_is_about_the_judged_half() -> None:
    table = frame(20)
    result = judge(table, PREDICTORS["flops"], seed=0)
    line = PREDICTORS["flops"].fit(table[~result.judged], table["latency_ms"][~result.judged])
    assert result.fitted == line
    assert result.fitted_ms == pytest.approx(line.predict(table))
    judged = result.judged
    assert result.scores == scores(table["latency_ms"][judged], result.out_of_sample_ms[judged], seed=0)


@pytest.mark.parametrize("n", range(6))
def test_too_few_nets_are_not_judged(n: int) -> None:
    # A line needs three nets in the half it is fitted on; five nets leave three, and two to judge.
    result = judge(frame(n), PREDICTORS["flops"], seed=0)
    assert (result.scores is None) == (n < 5)
    assert len(result.out_of_sample_ms) == len(result.judged) == n


def test_nets_without_a_feature_have_no_prediction() -> None:
    table = frame(20).astype({"macs": "Int64"})
    table.loc[[0, 3], "macs"] = pd.NA
    result = judge(table, PREDICTORS["flops"], seed=0)
    assert np.flatnonzero(np.isnan(result.out_of_sample_ms)).tolist() == [0, 3]
    assert np.isnan(judge(table, PREDICTORS["kernels"], seed=0).out_of_sample_ms).all()


def test_an_architecture_must_be_there_once() -> None:
    table = pd.concat([frame(6), frame(6)[:1]])
    with pytest.raises(ValueError, match="twice"):
        judge(table, LinearPredictor(), seed=0)
    kept = unique_nets(table.assign(latency_ms=[np.nan, *table["latency_ms"][1:]]))
    assert kept["digest"].tolist() == [f"{i:012x}" for i in (1, 2, 3, 4, 5, 0)]
