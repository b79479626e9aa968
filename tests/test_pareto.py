from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vnas.pareto import hypervolume, non_dominated, ranks

# A coarse grid makes ties and duplicates common.
points = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(
        np.float64, st.tuples(st.integers(0, 24), st.just(m)), elements=st.integers(-3, 3).map(float) | st.just(np.nan)
    )
)


eighths = st.integers(0, 10).map(lambda k: k / 8)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def brute(rows: np.ndarray) -> list[bool]:
    return [not np.isnan(b).any() and not any(dominates(a, b) for a in rows) for b in rows]


def test_the_truth_table_of_the_docstring() -> None:
    a, b, c, d, e, f = (1, 3), (2, 2), (3, 1), (2, 3), (2, 2), (1, np.nan)
    assert non_dominated([a, b, c, d, e, f]).tolist() == [True, True, True, False, True, False]


def test_what_is_maximised_is_flipped() -> None:
    # accuracy up, latency down: (90, 1) and (95, 2) stand, (89, 1) and (95, 3) do not.
    mask = non_dominated([(90, 1), (95, 2), (89, 1), (95, 3)], maximise=(True, False))
    assert mask.tolist() == [True, True, False, False]


def test_zero_and_minus_zero_are_one_value() -> None:
    assert non_dominated([(0.0, 1.0), (-0.0, 1.0)]).tolist() == [True, True]
    assert non_dominated([(0.0, 1.0), (-0.0, 2.0)]).tolist() == [True, False]


def test_infinity_is_a_value() -> None:
    inf = np.inf
    assert non_dominated([(1, inf), (2, inf), (inf, 1), (-inf, 5)]).tolist() == [False, False, True, True]
    assert non_dominated([(inf, inf)]).tolist() == [True]


@settings(deadline=None, max_examples=150)
@given(points)
def test_as_the_brute_force(rows: np.ndarray) -> None:
    assert non_dominated(rows).tolist() == brute(rows)


@settings(deadline=None, max_examples=60)
@given(points)
def test_ranks_peel_the_front(rows: np.ndarray) -> None:
    found = ranks(rows)
    left = ~np.isnan(rows).any(axis=1)
    assert (found[~left] == -1).all()
    rank = 0
    while left.any():
        front = np.zeros(len(rows), dtype=bool)
        front[np.flatnonzero(left)] = brute(rows[left])
        assert (found[front] == rank).all()
        left &= ~front
        rank += 1


def test_ranks_by_hand() -> None:
    assert ranks([(1, 1), (2, 2), (1, 1), (3, 0), (3, 3), (np.nan, 0)]).tolist() == [0, 1, 0, 0, 2, -1]


def test_no_points() -> None:
    assert non_dominated([]).tolist() == []
    assert ranks(np.empty((0, 3))).tolist() == []
    assert hypervolume([], (1, 1)) == 0.0


def test_two_dimensions_by_hand() -> None:
    # Boxes 4 x 1, 3 x 2 and 1 x 3 in a 5 x 5 corner, without what they share.
    assert hypervolume([(1, 4), (2, 3), (4, 2)], (5, 5)) == 4 * 1 + 3 * 1 + 1 * 1
    assert hypervolume([(1, 4), (2, 3), (4, 2), (4, 4), (2, 3)], (5, 5)) == 8.0


def test_points_that_are_no_better_than_the_reference_add_nothing() -> None:
    assert hypervolume([(5, 0), (0, 5), (6, 6), (np.nan, 0)], (5, 5)) == 0.0


def test_accuracy_and_latency_by_hand() -> None:
    # 50 % up to 10 ms from 4 ms, and 80 % from 6 ms: 50 * 6 + 30 * 4.
    assert hypervolume([(50, 4), (80, 6)], (0, 10), maximise=(True, False)) == 420.0


def test_three_dimensions_by_hand() -> None:
    # Two boxes of 2 x 2 x 1 and 1 x 1 x 2 that share 1 x 1 x 1.
    assert hypervolume([(1, 1, 2), (2, 2, 1)], (3, 3, 3)) == 4 + 2 - 1


def inclusion_exclusion(rows: np.ndarray, reference: np.ndarray) -> float:
    total = 0.0
    for subset in range(1, 2 ** len(rows)):
        chosen = rows[[i for i in range(len(rows)) if subset >> i & 1]]
        sides = np.clip(reference - chosen.max(axis=0), 0.0, None)
        total += (-1) ** (len(chosen) + 1) * float(np.prod(sides))
    return total


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 4).flatmap(
        lambda m: hnp.arrays(
            np.float64, st.tuples(st.integers(1, 6), st.just(m)), elements=st.integers(0, 10).map(lambda k: k / 8)
        )
    )
)
def test_volume_as_by_inclusion_and_exclusion(rows: np.ndarray) -> None:
    reference = np.ones(rows.shape[1])
    assert hypervolume(rows, reference) == pytest.approx(inclusion_exclusion(rows, reference), abs=1e-9)


def test_volume_as_by_monte_carlo() -> None:
    random = np.random.default_rng(0)
    rows = random.random((40, 3))
    samples = random.random((40_000, 3))
    share = np.mean([(rows <= sample).all(axis=1).any() for sample in samples])
    error = np.sqrt(share * (1 - share) / len(samples))
    assert hypervolume(rows, (1, 1, 1)) == pytest.approx(share, abs=5 * error)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: non_dominated([1.0, 2.0]), r"shape \(2,\)"),
        (lambda: non_dominated([[1.0, 2.0]], maximise=(True,)), "maximise has 1 entries for 2 objectives"),
        (lambda: hypervolume([[1.0, 2.0]], (1.0,)), "1 values for 2 objectives"),
        (lambda: hypervolume([[1.0, 2.0]], (1.0, np.nan)), "holds a NaN"),
    ],
)
def test_shapes_that_do_not_fit(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]
