from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.prediction import Estimate, agreement, scores, tau_advantage

few = st.integers(0, 6).map(float)


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def width(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def tau_b(x: list[float], y: list[float]) -> float | None:
    """From the definition: every pair of nets is looked at once."""
    concordant = discordant = tied_x = tied_y = 0
    for (x1, y1), (x2, y2) in combinations(list(zip(x, y, strict=True)), 2):
        if x1 == x2:
            tied_x += 1
        if y1 == y2:
            tied_y += 1
        if x1 != x2 and y1 != y2:
            concordant += (x1 < x2) == (y1 < y2)
            discordant += (x1 < x2) != (y1 < y2)
    pairs = len(x) * (len(x) - 1) // 2
    if tied_x == pairs or tied_y == pairs:
        return None
    return (concordant - discordant) / ((pairs - tied_x) * (pairs - tied_y)) ** 0.5


def test_four_nets_by_hand() -> None:
    # Of the six pairs only (1, 2) is the wrong way round; d = 1, -1 gives rho = 1 - 6 * 2 / (4 * 15).
    found = agreement([1.0, 2.0, 3.0, 4.0], [20.0, 10.0, 30.0, 40.0])
    assert value(found.kendall_tau) == pytest.approx(4 / 6)
    assert value(found.spearman) == pytest.approx(1 - 12 / 60)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(few, few), max_size=25))
def test_kendall_tau_is_what_counting_pairs_gives(pairs: list[tuple[float, float]]) -> None:
    truth, foretold = [x for x, _ in pairs], [y for _, y in pairs]
    expected = tau_b(truth, foretold)
    found = agreement(truth, foretold, resamples=10).kendall_tau
    if expected is None:
        assert found is None
    else:
        assert value(found) == pytest.approx(expected, abs=1e-12)


def test_a_score_of_any_scale_and_sign_is_ranked() -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal(20)
    assert value(agreement(truth, np.exp(truth)).kendall_tau) == 1.0
    assert value(agreement(truth, -(truth**3)).kendall_tau) == -1.0
    assert value(agreement(truth, -(truth**3)).spearman) == pytest.approx(-1.0)


def test_latency_scores_and_agreement_are_the_same_ranks() -> None:
    random = np.random.default_rng(3)
    x, y = random.uniform(1, 2, 20), random.uniform(1, 2, 20)
    judged = scores(x, y, seed=7)
    found = agreement(x, y, seed=7)
    assert (found.kendall_tau, found.spearman) == (judged.kendall_tau, judged.spearman)


def test_an_advantage_is_the_difference_of_two_taus() -> None:
    random = np.random.default_rng(1)
    truth = random.standard_normal(24)
    ours, other = truth + 0.3 * random.standard_normal(24), truth + 2.0 * random.standard_normal(24)
    found = tau_advantage(truth, ours, other)
    taus = [value(agreement(truth, values).kendall_tau) for values in (ours, other)]
    assert value(found) == pytest.approx(taus[0] - taus[1])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    swapped = tau_advantage(truth, other, ours)
    assert swapped == Estimate(pytest.approx(-found.value), pytest.approx(-found.high), pytest.approx(-found.low))


def test_an_advantage_is_paired() -> None:
    # The two share nearly all of their error, so their difference is known far better than either tau.
    random = np.random.default_rng(2)
    truth = random.standard_normal(24)
    shared = truth + random.standard_normal(24)
    ours, other = shared, shared + 1e-3 * random.standard_normal(24)
    assert width(tau_advantage(truth, ours, other)) < 0.2 * width(agreement(truth, ours).kendall_tau)
    assert tau_advantage(truth, ours, ours) == Estimate(0.0, 0.0, 0.0)


def test_an_advantage_that_is_not_there_is_found_as_seldom_as_it_says() -> None:
    # Two judges of equal skill: a 95 % interval must hold 0 in about 95 of 100 draws.
    random, held = np.random.default_rng(0), 0
    for seed in range(200):
        truth = random.standard_normal(24)
        one, other = (truth + random.standard_normal(24) for _ in range(2))
        found = tau_advantage(truth, one, other, seed=seed, resamples=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.0 <= found.high
    # 190 are expected, with a standard deviation of 3; intervals by percentiles of so few are a little narrow.
    assert 176 <= held <= 199


def test_an_interval_holds_the_middle_95_percent_of_the_resamples() -> None:
    random = np.random.default_rng(5)
    x, y = random.standard_normal((2, 12))
    taus = []
    for counts in np.random.default_rng(9).multinomial(12, [1 / 12] * 12, size=50):
        nets = np.repeat(np.arange(12), counts)
        taus.append(tau_b(x[nets].tolist(), y[nets].tolist()))
    found = agreement(x, y, seed=9, resamples=50).kendall_tau
    assert found is not None
    assert (found.low, found.high) == pytest.approx(np.percentile(np.array(taus, float), [2.5, 97.5]), abs=1e-12)


def test_a_score_that_most_resamples_leave_undefined_has_no_interval() -> None:
    # A resample of 8 holds both odd nets with probability 1 - 2 (7/8)^8 + (6/8)^8 = .41.
    assert agreement([1.0] + [0.0] * 7, [0.0] * 7 + [1.0]).kendall_tau == Estimate(pytest.approx(-1 / 7))


@pytest.mark.parametrize("n", [0, 1])
def test_one_net_has_no_order(n: int) -> None:
    nets = [1.0] * n
    assert agreement(nets, nets) == agreement([1.0, 2.0], [3.0, 3.0])
    assert agreement(nets, nets).kendall_tau is None
    assert agreement(nets, nets).spearman is None
    assert tau_advantage(nets, nets, nets) is None
    assert tau_advantage([1.0, 2.0], [1.0, 2.0], [3.0, 3.0]) is None


def test_intervals_need_eight_nets() -> None:
    assert agreement(range(7), range(7)).kendall_tau == Estimate(1.0)
    assert tau_advantage(range(7), range(7), range(7)) == Estimate(0.0)
    assert agreement(range(8), range(8)).kendall_tau == Estimate(1.0, 1.0, 1.0)


def test_the_bootstrap_is_seeded() -> None:
    random = np.random.default_rng(1)
    x, y, z = random.standard_normal((3, 20))
    assert agreement(x, y, seed=1) == agreement(x, y, seed=1) != agreement(x, y, seed=2)
    assert tau_advantage(x, y, z, seed=1) == tau_advantage(x, y, z, seed=1) != tau_advantage(x, y, z, seed=2)


@pytest.mark.parametrize(
    ("truth", "values"), [([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.inf]), ([[1.0]], [[1.0]])]
)
def test_what_cannot_be_ranked_is_refused(truth: object, values: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        agreement(truth, values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be"):
        tau_advantage(truth, [1.0], values)  # type: ignore[arg-type]
