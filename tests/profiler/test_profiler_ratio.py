from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.profiler.ratio import Estimate, Rounds, ratio_interval, resolution, stretches, welch_degrees

T_2, T_1 = 4.302653, 12.706205
"""Quantiles .975 of Student's t with 2 and 1 degrees of freedom: any printed table."""


def of_medians(*logs: float) -> list[Rounds]:
    """Processes of one sample each, by its logarithm."""
    return [[[math.exp(log)]] for log in logs]


def test_the_interval_is_welchs() -> None:
    # Variances .0002 a side, of means of two: .0001 each; equal, so 2 degrees of freedom.
    found = ratio_interval(of_medians(0.00, 0.02), of_medians(0.10, 0.12))
    half = T_2 * math.sqrt(0.0002)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    assert found.unit == "processes"


def test_welchs_degrees() -> None:
    assert welch_degrees(Estimate(0.0, 1.0, 4), Estimate(0.0, 1.0, 4)) == pytest.approx(8.0)
    assert welch_degrees(Estimate(0.0, 1e-30, 4), Estimate(0.0, 0.0, 9)) == pytest.approx(4.0)
    # (2 + 1)^2 / (2^2 / 2 + 1^2 / 5)
    assert welch_degrees(Estimate(0.0, 2.0, 2), Estimate(0.0, 1.0, 5)) == pytest.approx(9 / 2.2)
    assert welch_degrees(Estimate(0.0, 0.0, 4), Estimate(0.0, 1.0, 0)) == 0.0


def test_one_process_on_a_side_takes_the_spread_of_the_other() -> None:
    several, alone = of_medians(0.00, 0.02), [[[math.exp(0.11)] * 8]]
    half = T_1 * math.sqrt(0.0001 + 0.0002)  # of the mean of two, and of the one
    for old, new, change in ((several, alone, 0.1), (alone, several, -0.1)):
        found = ratio_interval(old, new)
        assert found.unit == "borrowed"
        assert (math.log(found.low), math.log(found.high)) == pytest.approx((change - half, change + half), abs=1e-6)


def test_one_process_that_is_noisier_than_the_others_differ_keeps_its_own_noise() -> None:
    quiet = of_medians(0.0, 1e-6)
    noisy = [[[math.exp(log)] for log in (-0.2, 0.2, -0.2, 0.2)]]
    found = ratio_interval(quiet, noisy)
    assert math.log(found.high) > T_1 * math.sqrt(0.16 / 3 / 4)


def test_one_process_each_is_judged_by_its_stretches() -> None:
    # Four rounds are four stretches, of log medians 0, 0, .02, .02: variance .0004 / 3, of the mean a quarter of it.
    old = [[[1.0] * 3, [1.0] * 5, [math.exp(0.02)] * 4, [math.exp(0.02)] * 4]]
    new = [[[2.0] * 4]]
    found = ratio_interval(old, new)
    assert found.unit == "stretches"
    step = math.expm1(0.02)
    half = 3.182446 * math.sqrt(0.0001 / 3) + step / 2  # 3 degrees of freedom: the other side has no noise
    middle = math.log(2.0) - math.log((1.0 + math.exp(0.02)) / 2)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_without_noise_the_interval_is_the_ratio() -> None:
    for old, new in (([[[2.0] * 60]], [[[3.0] * 60]]), (of_medians(0.0, 0.0), of_medians(math.log(1.5)) * 2)):
        found = ratio_interval(old, new)
        assert (found.low, found.high) == pytest.approx((1.5, 1.5), rel=1e-12)


def test_one_sample_each_tells_nothing() -> None:
    found = ratio_interval([[[1.0]]], [[[1.0]]])
    assert (found.low, found.high) == (0.0, math.inf)


def test_a_timer_with_steps_is_not_believed_beyond_half_a_step() -> None:
    # Every process has the same median, a tick of .5 us; the truth may lie half a tick away on either side.
    ticks = [[[0.0195, 0.02, 0.02, 0.0205]]] * 3
    assert resolution(ticks) == pytest.approx(0.0005 / 0.02)
    found = ratio_interval(ticks, ticks)
    assert math.log(found.high) == pytest.approx(0.025)
    assert resolution([[[2.0] * 9], [[2.1] * 9]]) == 0.0


def test_stretches_are_long_equal_and_in_order() -> None:
    samples = [float(i) for i in range(101)]
    pieces = stretches([samples])
    assert [len(piece) for piece in pieces] == [10] * 9 + [11]
    assert [sample for piece in pieces for sample in piece] == samples
    assert stretches([[1.0], [2.0, 3.0]]) == [[1.0], [2.0], [3.0]]


def test_with_enough_rounds_stretches_are_whole_rounds() -> None:
    assert stretches([[1.0, 1.0], [], [2.0], [3.0, 3.0, 3.0]]) == [[1.0, 1.0], [2.0], [3.0, 3.0, 3.0]]
    assert stretches([[float(i)] for i in range(4)], most=2) == [[0.0, 1.0], [2.0, 3.0]]


samples = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=12)
sides = st.lists(samples.map(lambda taken: [taken]), min_size=1, max_size=4)


@given(sides, sides)
@settings(deadline=None, max_examples=100)
def test_exchanging_the_sides_turns_the_interval_over(old: list[Rounds], new: list[Rounds]) -> None:
    forth, back = ratio_interval(old, new), ratio_interval(new, old)
    assert (math.log(forth.low), math.log(forth.high)) == pytest.approx((-math.log(back.high), -math.log(back.low)))


@pytest.mark.parametrize(
    ("old", "new", "level"), [([], [[[1.0]]], 0.95), ([[[1.0]]], [], 0.95), ([[[1.0]]] * 2, [[[1.0]]] * 2, 1.0)]
)
def test_what_cannot_be_told_from_is_refused(old: list[Rounds], new: list[Rounds], level: float) -> None:
    with pytest.raises(ValueError, match="at least 1 each"):
        ratio_interval(old, new, level)


TRUE_RATIO = 1.03


def simulated(random: np.random.Generator, count: int, median: float, between: float) -> list[Rounds]:
    """Processes whose medians vary by ``between``, each with 20 samples of a skewed noise of 1.4 %."""
    medians = median * np.exp(random.normal(0.0, between, (count, 1)))
    noise = 0.01 * (random.gamma(2.0, 1.0, (count, 20)) - 1.678347)  # the gamma's median
    return [[taken] for taken in (medians * np.exp(noise)).tolist()]


def covered(counts: tuple[int, int], spreads: tuple[float, float], runs: int) -> float:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(runs):
        old = simulated(random, counts[0], 10.0, spreads[0])
        new = simulated(random, counts[1], 10.0 * TRUE_RATIO, spreads[1])
        found = ratio_interval(old, new)
        hits += found.low <= TRUE_RATIO <= found.high
    return hits / runs


@pytest.mark.parametrize("spreads", [(0.0, 0.0), (0.05, 0.05), (0.0, 0.05), (0.03, 0.01)])
@pytest.mark.parametrize("counts", [(3, 3), (5, 5), (7, 7), (7, 3)])
def test_the_true_ratio_is_covered_in_93_to_97_of_100(counts: tuple[int, int], spreads: tuple[float, float]) -> None:
    # Normal medians, 400,000 draws each: .941 to .966 for these; 2,000 runs have a standard error of .005.
    assert 0.93 <= covered(counts, spreads, 2000) <= 0.97


def test_stretches_cover_where_samples_depend_on_each_other() -> None:
    random = np.random.default_rng(0)
    runs, n, rho = 1000, 1000, 0.9
    noise = random.normal(0.0, 0.01, (n, 2, runs))
    noise[0] /= math.sqrt(1.0 - rho * rho)
    for i in range(1, n):
        noise[i] += rho * noise[i - 1]
    series = 10.0 * np.exp(noise).transpose(2, 1, 0)  # (runs, side, sample)
    found = [ratio_interval([[old]], [[new]]) for old, new in series.tolist()]
    assert 0.92 <= sum(f.low <= 1.0 <= f.high for f in found) / runs <= 0.97
