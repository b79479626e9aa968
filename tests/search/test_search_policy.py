from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vnas.pareto import hypervolume, non_dominated
from vnas.search.policy.gates import BudgetGate, CostGate, Guess, HopelessGate, Known, PredictedLatencyGate
from vnas.search.policy.promotion import Limits, Spent, may_begin, may_go_on, next_on
from vnas.search.policy.ranking import order

# A coarse grid makes ties and duplicates common.
eighths = st.integers(0, 8).map(lambda k: k / 8)


def clouds(objectives: int, most: int = 7) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.tuples(st.integers(1, most), st.just(objectives)), elements=eighths)


# ranking


def dominates(a: list[Fraction], b: list[Fraction]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def volume(rows: list[list[Fraction]], corner: list[Fraction]) -> Fraction:
    """By inclusion and exclusion, exactly."""
    total = Fraction(0)
    for size in range(1, len(rows) + 1):
        for chosen in itertools.combinations(rows, size):
            box = Fraction(1)
            for j, end in enumerate(corner):
                box *= max(Fraction(0), end - max(row[j] for row in chosen))
            total += (-1) ** (size + 1) * box
    return total


def reference(points: np.ndarray) -> list[tuple[int, Fraction]]:
    """Rank and contribution of each point, by their definitions."""
    rows = [[Fraction(value) for value in row] for row in points.tolist()]
    columns = list(zip(*rows, strict=True))
    rows = [[(x - min(c)) / ((max(c) - min(c)) or 1) for x, c in zip(row, columns, strict=True)] for row in rows]
    rank: dict[int, int] = {}
    level = 0
    while len(rank) < len(rows):
        left = [i for i in range(len(rows)) if i not in rank]
        front = [i for i in left if not any(dominates(rows[j], rows[i]) for j in left)]
        rank |= dict.fromkeys(front, level)
        level += 1
    found = []
    for i, row in enumerate(rows):
        peers = [rows[j] for j in rank if rank[j] == rank[i] and j != i]
        corner = [max(values) + Fraction(1, 10) for values in zip(row, *peers, strict=True)]
        found.append((rank[i], volume([row, *peers], corner) - volume(peers, corner)))
    return found


@pytest.mark.parametrize("objectives", [2, 3])
def test_as_the_definition_says(objectives: int) -> None:
    @settings(deadline=None, max_examples=60)
    @given(clouds(objectives, most=6))
    def check(points: np.ndarray) -> None:
        found = order(points).tolist()
        assert sorted(found) == list(range(len(points)))
        keys = reference(points)
        for better, worse in itertools.pairwise(found):
            assert keys[better][0] <= keys[worse][0]
            if keys[better][0] == keys[worse][0]:
                assert keys[better][1] >= keys[worse][1] - Fraction(1, 10**9)

    check()


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_order_of_the_rows_decides_nothing(objectives: int) -> None:
    # Reading an argsort as ranks gives the same answer only where the permutation is its own inverse.
    points = np.random.default_rng(objectives).random((5, objectives))
    best = points[order(points)]
    for permutation in itertools.permutations(range(len(points))):
        shuffled = points[list(permutation)]
        np.testing.assert_array_equal(shuffled[order(shuffled)], best)


@settings(deadline=None, max_examples=60)
@given(clouds(2, most=12))
def test_the_front_comes_first(points: np.ndarray) -> None:
    front = non_dominated(points)
    assert front[order(points)[: front.sum()]].all()


GOLDEN = [(0, 10), (2, 4), (5, 1), (10, 0), (6, 6)]
"""Over 10, the first four add .2 x .1, .3 x .6, .5 x .3 and .1 x .1 up to (1.1, 1.1); the last is dominated."""


def test_ties_are_broken_by_what_each_adds() -> None:
    assert order(GOLDEN).tolist() == [1, 2, 0, 3, 4]


@pytest.mark.parametrize("unit", [(1.0, 1000.0), (1000.0, 1.0), (1e-3, 1.0)])
def test_the_unit_of_an_objective_decides_nothing(unit: tuple[float, float]) -> None:
    assert order(np.array(GOLDEN) * unit).tolist() == [1, 2, 0, 3, 4]
    points = np.random.default_rng(0).random((30, 2))
    assert order(points * unit).tolist() == order(points).tolist()


def test_what_is_equal_stays_in_its_order() -> None:
    assert order([(1, 1), (1, 1), (0, 0), (1, 1)]).tolist() == [2, 0, 1, 3]
    assert order([(3, 4)]).tolist() == [0]
    assert order([]).tolist() == []


# promotion

CORNER = np.array([10.0, 10.0])
FOUR = np.array([(2, 8), (5, 5), (8, 2), (6, 6)], dtype=np.float64)
"""Alone they add 16, 25, 16 and 16; beside the second 6, -, 6 and 0."""


def chain(points: np.ndarray, allowed: np.ndarray, corner: np.ndarray | None) -> list[int]:
    gone = np.zeros(len(points), dtype=bool)
    found = []
    while (at := next_on(points, gone, allowed, corner)) is not None:
        gone[at] = True
        found.append(at)
    return found


@pytest.mark.parametrize("corner", [CORNER, None])
def test_the_one_that_adds_most_goes_on(corner: np.ndarray | None) -> None:
    assert chain(FOUR, np.ones(4, dtype=bool), corner) == [1, 0, 2, 3]


def test_only_the_allowed_go_on() -> None:
    assert chain(FOUR, np.array([True, False, True, True]), CORNER) == [0, 2, 3]
    assert chain(FOUR, np.zeros(4, dtype=bool), CORNER) == []
    assert next_on(FOUR, np.ones(4, dtype=bool), np.ones(4, dtype=bool), CORNER) is None
    assert next_on(np.empty((0, 2)), np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)) is None


def test_what_went_on_without_being_allowed_counts_for_what_others_add() -> None:
    # (5, 5) failed above and may not go again: beside it (6, 6) adds nothing.
    gone, allowed = np.array([False, True, False, False]), np.array([False, False, True, True])
    assert next_on(FOUR, gone, allowed, CORNER) == 2


def test_where_none_adds_anything_the_rank_decides() -> None:
    beyond = np.array([(30, 30), (10, 20), (12, 11), (20, 10)], dtype=np.float64)
    assert chain(beyond, np.ones(4, dtype=bool), CORNER) == [2, 1, 3, 0]


def test_one_alone_goes_on() -> None:
    assert next_on(np.array([[3.0, 4.0]]), np.array([False]), np.array([True])) == 0


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_as_the_greatest_gain_of_all_and_never_a_dominated_one(data: st.DataObject) -> None:
    points = data.draw(st.integers(2, 3).flatmap(lambda m: clouds(m, most=9)))
    masks = hnp.arrays(np.bool_, len(points))
    gone, allowed = data.draw(masks), data.draw(masks)
    corner = np.full(points.shape[1], data.draw(st.sampled_from([0.5, 1.0, 1.25])))
    chosen = next_on(points, gone, allowed, corner)
    waiting = [i for i in range(len(points)) if allowed[i] and not gone[i]]
    if not waiting:
        assert chosen is None
        return
    assert chosen in waiting
    assert not any((points[i] <= points[chosen]).all() and (points[i] < points[chosen]).any() for i in waiting)
    base = hypervolume(points[gone], corner)
    gains = {i: hypervolume(points[[*np.flatnonzero(gone), i]], corner) - base for i in waiting}
    assert gains[chosen] == pytest.approx(max(gains.values()), abs=1e-12)


LIMITS = Limits(candidates=10, epochs=100.0, seconds=200.0, spend=0.4)


def limits(**changes: object) -> Limits:
    return Limits(**{**LIMITS.__dict__, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spent", "above", "may"),
    [
        (Spent(9, 57.0, 0.0, 0.0), True, True),  # 57 + 3 is the first rung's share of 100, .6
        (Spent(9, 57.5, 0.0, 0.0), True, False),
        (Spent(9, 97.0, 0.0, 0.0), False, True),
        (Spent(9, 97.5, 0.0, 0.0), False, False),
        (Spent(10, 0.0, 0.0, 0.0), True, False),
        (Spent(0, 0.0, 0.0, 119.0), True, True),  # .6 of 200 s is 120
        (Spent(0, 0.0, 0.0, 120.0), True, False),
        (Spent(0, 0.0, 0.0, 199.0), False, True),
        (Spent(0, 0.0, 0.0, 200.0), False, False),
        (Spent(0, 57.0, 99.0, 0.0), True, True),  # what went to other rungs is not the first's
    ],
)
def test_room_for_another_candidate(spent: Spent, above: bool, may: bool) -> None:
    assert may_begin(spent, LIMITS, 3.0, above=above) is may


def test_without_limits_only_the_candidates_count() -> None:
    free = limits(epochs=None, seconds=None)
    assert may_begin(Spent(9, 1e9, 1e9, 1e9), free, 3.0, above=True)
    assert not may_begin(Spent(10, 0.0, 0.0, 0.0), free, 3.0, above=True)


@pytest.mark.parametrize(
    ("spent", "begun_all", "changes", "may"),
    [
        (Spent(5, 30.0, 18.0, 0.0), False, {}, True),  # .4 to .6: 20 above for 30 below
        (Spent(5, 30.0, 18.5, 0.0), False, {}, False),
        (Spent(5, 30.0, 18.5, 0.0), True, {}, True),  # nothing else will take the rest
        (Spent(5, 30.0, 68.0, 0.0), True, {}, True),  # 30 + 68 + 2 are all of 100
        (Spent(5, 30.0, 68.5, 0.0), True, {}, False),
        (Spent(5, 30.0, 18.5, 0.0), True, {"epochs": None}, True),  # nothing else will take the time that is left
        (Spent(10, 30.0, 18.5, 0.0), True, {"epochs": None}, False),  # without a limit the share holds to the end
        (Spent(10, 30.0, 18.0, 0.0), True, {"epochs": None}, True),
        (Spent(10, 2.0, 0.0, 0.0), True, {"epochs": None}, True),  # one at least has to come to the end
        (Spent(5, 30.0, 0.0, 0.0), False, {"last": True}, False),
        (Spent(5, 30.0, 0.0, 0.0), True, {"last": True}, True),
        (Spent(5, 30.0, 0.0, 199.0), False, {}, True),
        (Spent(5, 30.0, 0.0, 200.0), True, {}, False),
        (Spent(5, 0.0, 0.0, 0.0), False, {}, False),  # nothing was judged yet
    ],
)
def test_room_for_a_step_up(spent: Spent, begun_all: bool, changes: dict[str, object], may: bool) -> None:
    assert may_go_on(spent, limits(**changes), 2.0, begun_all=begun_all) is may


# gates


def test_a_cost_over_its_limit() -> None:
    gate = CostGate({"params": 1e6, "macs": 2e6})
    assert gate.reason(Known({"params": 1e6, "macs": 2e6})) is None
    assert gate.reason(Known({"params": 9e5, "macs": 2_500_000})) == "macs 2,500,000 is over the limit of 2,000,000"
    assert gate.reason(Known({"params": 1_000_001, "macs": 1})) is not None
    assert CostGate({}).reason(Known({"params": 1e99})) is None


def test_a_latency_predicted_over_the_budget() -> None:
    gate = PredictedLatencyGate(5.0)
    assert gate.reason(Known({}, latency_guess_ms=Guess(5.5, 7.0))) == (
        "latency is predicted to be 5.5 ms at least, over the budget of 5 ms"
    )
    assert gate.reason(Known({}, latency_guess_ms=Guess(5.0, 7.0))) is None
    assert gate.reason(Known({})) is None
    # Once it is measured, nothing that was predicted counts.
    assert gate.reason(Known({}, latency_ms=4.0, latency_guess_ms=Guess(5.5, 7.0))) is None


def test_a_latency_measured_over_the_budget() -> None:
    gate = BudgetGate(5.0)
    assert gate.reason(Known({}, latency_ms=5.25)) == "latency 5.25 ms is over the budget of 5 ms"
    assert gate.reason(Known({}, latency_ms=5.0)) is None
    assert gate.reason(Known({}, latency_guess_ms=Guess(9.0, 10.0))) is None


def test_a_net_without_hope() -> None:
    gate = HopelessGate(np.array([1.0, 2.0, 4.0]), np.array([60.0, 70.0, 80.0]))
    assert gate.reason(Known({}, 3.0, None, Guess(50.0, 69.0))) == (
        "69.0 % at best with 3 ms, and a net no slower has 70.0 %"
    )
    assert gate.reason(Known({}, 3.0, None, Guess(50.0, 70.5))) is None
    assert gate.reason(Known({}, 2.0, None, Guess(50.0, 69.0))) is not None  # no slower, not only faster
    assert gate.reason(Known({}, 0.5, None, Guess(0.0, 1.0))) is None  # the fastest so far
    assert gate.reason(Known({}, 3.0)) is None
    assert gate.reason(Known({}, None, None, Guess(0.0, 1.0))) is None
    assert HopelessGate(np.empty(0), np.empty(0)).reason(Known({}, 3.0, None, Guess(0.0, 1.0))) is None


@settings(deadline=None, max_examples=150)
@given(clouds(2, most=8), eighths, eighths)
def test_hopeless_is_what_adds_nothing_at_its_best(known: np.ndarray, latency: float, high: float) -> None:
    reason = HopelessGate(known[:, 0], known[:, 1]).reason(Known({}, latency, None, Guess(high - 1.0, high)))
    corner, maximise = (2.0, -1.0), (False, True)
    adds = hypervolume([*known, (latency, high)], corner, maximise) > hypervolume(known, corner, maximise)
    assert (reason is None) == adds
