from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.profiler.statistics import coverage, dependence, interval_rank, median_interval

# n, lower rank and coverage of the 95 % interval of the median, as tables of the sign test give them; for n = 6 by
# hand: both extremes miss the median with 2 / 2^6, so 1 - 1/32 = .9688.
TABULATED = [(6, 1, 0.9688), (8, 1, 0.9922), (10, 2, 0.9785), (15, 4, 0.9648), (20, 6, 0.9586), (50, 18, 0.9672)]


def exact_coverage(n: int, rank: int) -> float:
    term, tail = 1, 0  # the binomial coefficients of row n, each from the one before
    for i in range(rank):
        tail += term
        term = term * (n - i) // (i + 1)
    return float(1 - Fraction(2 * tail, 2**n))


@pytest.mark.parametrize(("n", "rank", "level"), TABULATED)
def test_ranks_and_coverage_are_the_tabulated_ones(n: int, rank: int, level: float) -> None:
    assert interval_rank(n) == rank
    assert coverage(n, rank) == pytest.approx(level, abs=5e-5)


@given(n=st.integers(1, 400), data=st.data())
@settings(deadline=None, max_examples=60)
def test_coverage_is_the_binomial_sum(n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, (n + 1) // 2))
    assert coverage(n, rank) == pytest.approx(exact_coverage(n, rank), abs=1e-11)


def test_coverage_of_many_samples_keeps_its_digits() -> None:
    n, rank = 20_001, 9_862
    assert coverage(n, rank) == pytest.approx(exact_coverage(n, rank), rel=1e-9)


@given(n=st.integers(1, 5000), level=st.floats(0.5, 0.999))
@settings(deadline=None, max_examples=60)
def test_rank_is_the_largest_that_covers(n: int, level: float) -> None:
    rank = interval_rank(n, level)
    assert rank == 1 or coverage(n, rank) >= level
    if rank < (n + 1) // 2:
        assert coverage(n, rank + 1) < level


@given(samples=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=80))
@settings(deadline=None, max_examples=60)
def test_interval_is_made_of_samples_and_holds_the_median(samples: list[float]) -> None:
    interval = median_interval(samples)
    assert interval.low in samples
    assert interval.high in samples
    assert interval.low <= interval.median <= interval.high
    assert interval.median == pytest.approx(float(np.median(samples)))


def test_too_few_samples_say_what_they_cover() -> None:
    five = median_interval([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (five.low, five.high, five.level) == (1.0, 5.0, 0.9375)
    assert median_interval([1.0]).level == 0.0


def test_relative_width() -> None:
    assert median_interval([1.0, 2.0, 3.0]).relative_width == 1.0


@pytest.mark.parametrize(("samples", "level"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_what_has_no_interval_is_an_error(samples: list[float], level: float) -> None:
    with pytest.raises(ValueError, match=r"at least 1|between 0 and 1"):
        median_interval(samples, level)


def test_rank_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"allowed are 1 \.\. 3"):
        coverage(5, 4)


@pytest.mark.parametrize("noise", ["normal", "heavy tail", "two modes"])
@pytest.mark.parametrize("n", [20, 50])
def test_interval_covers_the_true_median_as_often_as_it_says(noise: str, n: int) -> None:
    rng = np.random.default_rng(n)
    runs = 2000
    normal = rng.normal(0.0, 1.0, (runs, n))
    draws = {
        "normal": normal,
        "heavy tail": rng.standard_t(1.5, (runs, n)),
        "two modes": normal + np.where(rng.random((runs, n)) < 0.5, -3.0, 3.0),
    }[noise]
    hits = 0
    for row in draws:
        interval = median_interval(row.tolist())
        hits += interval.low <= 0.0 <= interval.high
    expected = exact_coverage(n, interval_rank(n))
    assert hits / runs == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / runs))


def test_dependence_is_the_ratio_of_the_batches_variance_to_that_of_independent_ones() -> None:
    """Twenty batches of ten; in every second one all samples lie above the median: p = 1/2, shares of 0 and 1."""
    samples = [float(10 * (i // 10 % 2) + i % 10) for i in range(200)]
    # The variance of ten zeros and ten ones is 10/38 * 20/20 = 5/19; of independent shares (1/4) / 10.
    assert dependence(samples) == pytest.approx((5 / 19) / (1 / 40))
