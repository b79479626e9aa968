from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.prediction import Estimate
from vnas.report.analysis import letters
from vnas.report.findings import estimate, schedule
from vnas.report.numbers import count, duration, measured, number_word, percent, significant


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        # Half a width of .0035 keeps one digit, .0012 two because it begins with a 1.
        ((1.23456, 1.2310, 1.2380), "1.235 [1.231, 1.238]"),
        ((1.23456, 1.2333, 1.2357), "1.2346 [1.2333, 1.2357]"),
        ((12.3, 10.0, 14.0), "12 [10, 14]"),
        ((250.0, 100.0, 400.0), "250 [100, 400]"),
        ((0.5, 0.5, 0.5), "0.5000 [0.5000, 0.5000]"),
        ((0.123456, None, None), "0.123"),
        ((None, None, None), "—"),
    ],
)
def test_as_many_digits_as_the_interval_supports(numbers: tuple[float | None, ...], text: str) -> None:
    assert measured(*numbers) == text


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 0.5))
def test_what_is_cut_off_is_small_beside_the_interval(value: float, share: float) -> None:
    half = share * value
    shown = float(measured(value, value - half, value + half).partition(" ")[0])
    # Half a unit of the last digit; four decimals at most are shown.
    assert abs(shown - value) <= max(0.5 * half, 0.5e-4) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1,230"), (9.996, "10.0"), (0.012345, "0.0123"), (-2.5, "-2.50"), (math.nan, "—")],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (999, "999"), (37_156, "37.2 k"), (4_089_184_256, "4.09 G"), (1_000_000, "1.00 M")]
)
def test_count(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "—"), (0.25, "0.25 s"), (12.3, "12 s"), (90.0, "2 min"), (3700.0, "1 h 02 min")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_rest() -> None:
    assert percent(97.777, 270) == "97.8"
    assert percent(97.777, 10_000) == "97.78"
    assert number_word(1, "class", "classes") == "1 class"
    assert number_word(2, "class", "classes") == "2 classes"
    assert [letters(i) for i in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]


def test_estimates() -> None:
    assert estimate(Estimate(0.714, 0.42, 0.9)) == "0.71 [0.42, 0.90]"
    assert estimate(Estimate(40.0, 10.0, 70.0), 0, " %") == "40 % [10, 70]"
    assert estimate(Estimate(-0.001)) == "0.00"
    assert estimate(None) == "not defined"


def test_schedules() -> None:
    assert schedule({"shape": "linear", "start": 0.0, "end": 1 / 3, "steps": 1, "stagger": 0.0}) == "linear, 0 to 0.33"
    assert schedule({"shape": "step", "start": 0.1, "end": 0.5, "steps": 4, "stagger": 0.2}) == (
        "step x4, 0.10 to 0.50, staggered 0.20"
    )
    assert schedule(None) == "—"
