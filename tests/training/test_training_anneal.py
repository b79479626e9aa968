import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.config import PAPER_ANNEAL, Anneal
from vnas.training import slopes


@st.composite
def anneals(draw: st.DrawFn) -> Anneal:
    stagger = draw(st.floats(0, 0.9))
    end = draw(st.floats(0.01, 1 - stagger))
    return Anneal(
        shape=draw(st.sampled_from(["linear", "cosine", "step"])),
        start=draw(st.floats(0, end, exclude_max=True)),
        end=end,
        steps=draw(st.integers(1, 7)),
        stagger=stagger,
        order=draw(st.sampled_from(["shallow_first", "deep_first"])),
    )


@settings(deadline=None, max_examples=200)
@given(anneals(), st.integers(1, 10**7), st.integers(1, 14))
def test_every_run_ends_at_exactly_one(anneal: Anneal, total: int, pairs: int) -> None:
    assert slopes(anneal, total - 1, total, pairs) == (1.0,) * pairs


@settings(deadline=None, max_examples=100)
@given(anneals(), st.integers(2, 60), st.integers(1, 6))
def test_lambda_stays_in_bounds_and_never_falls(anneal: Anneal, total: int, pairs: int) -> None:
    run = [slopes(anneal, step, total, pairs) for step in range(total)]
    for pair in zip(*run, strict=True):
        assert all(0.0 <= value <= 1.0 for value in pair)
        assert list(pair) == sorted(pair)


@settings(deadline=None, max_examples=100)
@given(anneals(), st.integers(2, 60), st.integers(1, 6))
def test_lambda_is_exactly_one_from_the_end_of_the_window_and_zero_before_it(
    anneal: Anneal, total: int, pairs: int
) -> None:
    for step in range(total - 1):
        for pair, value in enumerate(slopes(anneal, step, total, pairs)):
            rank = pair if anneal.order == "shallow_first" else pairs - 1 - pair
            shift = anneal.stagger * rank / max(1, pairs - 1)
            if step / (total - 1) >= anneal.end + shift:
                assert value == 1.0
            if step / (total - 1) <= anneal.start + shift - 1e-9:
                assert value == 0.0


def test_the_paper_goes_linearly_to_one_over_the_first_third() -> None:
    run = [slopes(PAPER_ANNEAL, step, 301, 2)[0] for step in range(301)]
    assert run[:101] == pytest.approx([step / 100 for step in range(101)])
    assert set(run[100:]) == {1.0}


def test_cosine_is_the_official_formula() -> None:
    anneal = Anneal(shape="cosine", start=0.2, end=0.8)
    for step in range(101):
        t = min(1.0, max(0.0, (step / 100 - 0.2) / 0.6))
        assert slopes(anneal, step, 101, 1)[0] == pytest.approx(0.5 * (1 - math.cos(math.pi * t)), abs=1e-12)


def test_step_makes_equal_jumps() -> None:
    anneal = Anneal(shape="step", start=0.0, end=0.8, steps=4)
    run = [slopes(anneal, step, 101, 1)[0] for step in range(101)]
    assert sorted(set(run)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [run.index(value) for value in (0.25, 0.5, 0.75, 1.0)] == [20, 40, 60, 80]


def test_stagger_moves_the_windows_pair_by_pair() -> None:
    linear = Anneal(start=0.0, end=0.5, stagger=0.5)
    assert slopes(linear, 50, 101, 3) == pytest.approx((1.0, 0.5, 0.0))
    assert slopes(linear.model_copy(update={"order": "deep_first"}), 50, 101, 3) == pytest.approx((0.0, 0.5, 1.0))


def test_a_run_of_one_step_is_at_one() -> None:
    assert slopes(PAPER_ANNEAL, 0, 1, 3) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} is not one of a run of 5 steps"):
        slopes(PAPER_ANNEAL, step, 5, 1)
