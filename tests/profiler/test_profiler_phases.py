from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.phases import StoppingRule, WarmUpRule, check, sample, summarise, warm_up
from vnas.profiler.timers import ReplayTimer


def nothing() -> None:
    pass


def endless(rng: np.random.Generator, median_ms: float, sigma: float) -> Iterator[float]:
    while True:
        yield from (median_ms * np.exp(rng.normal(0.0, sigma, 500))).tolist()


def test_constant_times_stop_at_the_first_look() -> None:
    sampling = sample(ReplayTimer(itertools.repeat(20.0)), nothing, StoppingRule())
    # 50 calls of 20 ms are 1 s, past both minima.
    assert len(sampling.samples_ms) == 50
    assert sampling.seconds == pytest.approx(1.0)
    assert sampling.stop_reason == "target met"


def test_a_fast_call_is_sampled_for_the_least_time() -> None:
    sampling = sample(ReplayTimer(itertools.repeat(1.0)), nothing, StoppingRule(min_seconds=0.5))
    assert len(sampling.samples_ms) == 500
    assert sampling.stop_reason == "target met"


def test_a_slow_call_ends_at_the_time_limit_and_says_that_its_samples_are_few() -> None:
    rule = StoppingRule(max_seconds=1.0)
    sampling = sample(ReplayTimer(itertools.repeat(400.0)), nothing, rule)
    assert sampling.samples_ms == (400.0, 400.0, 400.0)
    assert sampling.stop_reason == "time limit"
    summary = summarise(sampling, rule)
    assert not summary.noise_ok
    assert summary.interval.level == 0.75
    assert "3 samples are too few for a 95%" in summary.notes[0]
    assert "raise max_seconds = 1" in summary.notes[0]


def test_noise_that_cannot_be_averaged_away_misses_the_target_and_says_by_how_much() -> None:
    rule = StoppingRule(max_seconds=2.0)
    sampling = sample(ReplayTimer(itertools.cycle([10.0, 20.0])), nothing, rule)
    summary = summarise(sampling, rule)
    assert sampling.stop_reason == "time limit"
    assert not summary.noise_ok
    # Half of the samples are 10 and half are 20: the interval goes from one mode to the other.
    assert (summary.interval.low, summary.interval.high) == (10.0, 20.0)
    assert "noise target missed" in summary.notes[0]
    assert "the target 1.0%, at the time limit" in summary.notes[0]


def test_a_target_met_only_at_the_limit_is_met() -> None:
    rule = StoppingRule(min_seconds=1.0, max_seconds=1.0)
    sampling = sample(ReplayTimer(itertools.repeat(10.0)), nothing, rule)
    assert (len(sampling.samples_ms), sampling.stop_reason) == (100, "target met")


def test_the_sample_limit_bounds_what_is_kept() -> None:
    rule = StoppingRule(min_samples=5, max_samples=60, min_seconds=10.0)
    sampling = sample(ReplayTimer(itertools.cycle([1.0, 2.0])), nothing, rule)
    assert (len(sampling.samples_ms), sampling.stop_reason) == (60, "sample limit")


@given(
    trace=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=200),
    min_samples=st.integers(1, 60),
    max_seconds=st.floats(0.01, 3.0),
)
@settings(deadline=None, max_examples=80)
def test_every_sample_is_kept_in_order_and_no_limit_is_passed(
    trace: list[float], min_samples: int, max_seconds: float
) -> None:
    rule = StoppingRule(min_samples=min_samples, min_seconds=0.0, max_seconds=max_seconds)
    given_ms = itertools.chain(trace, itertools.repeat(1.0))
    sampling = sample(ReplayTimer(given_ms), nothing, rule)
    n = len(sampling.samples_ms)
    assert sampling.samples_ms == tuple(itertools.islice(itertools.chain(trace, itertools.repeat(1.0)), n))
    assert sum(sampling.samples_ms[:-1]) / 1e3 <= max_seconds * (1 + 1e-9)
    if sampling.stop_reason == "target met":
        assert n >= min_samples
        assert summarise(sampling, rule).noise_ok


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_stopping_early_keeps_the_coverage(sigma: float) -> None:
    rng = np.random.default_rng(1)
    rule = StoppingRule(min_seconds=0.0)
    runs = 300
    hits = 0
    for _ in range(runs):
        sampling = sample(ReplayTimer(endless(rng, 1.0, sigma)), nothing, rule)
        interval = summarise(sampling, rule).interval
        assert interval.relative_width <= rule.target_relative
        hits += interval.low <= 1.0 <= interval.high
    # Nominal is 95 %; four standard errors of 300 runs are 5 points.
    assert 0.90 <= hits / runs <= 1.0


def test_an_untimed_call_follows_a_pause() -> None:
    calls: list[str] = []
    pauses = iter([False, True, False, False, False])

    def between(samples: Sequence[float], seconds: float) -> bool:
        assert len(samples) >= 1
        assert seconds > 0
        return next(pauses)

    rule = StoppingRule(min_samples=5, min_seconds=0.0)
    sampling = sample(ReplayTimer(itertools.repeat(1.0)), lambda: calls.append("call"), rule, between)
    # With 5 samples no interval reaches 95 %, so the sixth is needed.
    assert len(sampling.samples_ms) == 6
    assert len(calls) == 7


def test_warm_up_ends_when_two_windows_agree() -> None:
    rule = WarmUpRule(agreement=0.02, window_iterations=5, window_seconds=0.0)
    trace = [50.0] * 5 + [20.0] * 5 + [10.1] * 5 + [10.0] * 5 + [9.0] * 100
    warm = warm_up(ReplayTimer(trace), nothing, rule)
    assert (warm.iterations, warm.steady) == (20, True)
    assert warm.seconds == pytest.approx(5 * (50.0 + 20.0 + 10.1 + 10.0) / 1e3)


def test_warm_up_windows_last_their_least_time() -> None:
    warm = warm_up(ReplayTimer(itertools.repeat(1.0)), nothing, WarmUpRule(window_seconds=0.1))
    assert warm.iterations == pytest.approx(200, abs=2)


def test_warm_up_that_never_settles_ends_at_the_cap() -> None:
    drifting = (10.0 * 0.9 ** (i // 5) + 1e-6 for i in itertools.count())
    rule = WarmUpRule(window_seconds=0.0, max_seconds=0.2)
    warm = warm_up(ReplayTimer(drifting), nothing, rule)
    assert not warm.steady
    assert 0.2 <= warm.seconds <= 0.21


def test_no_warm_up_at_all_is_not_steady() -> None:
    warm = warm_up(ReplayTimer([]), nothing, WarmUpRule(max_seconds=0.0))
    assert (warm.iterations, warm.steady) == (0, False)


class BrokenError(Exception):
    pass


def broken() -> None:
    raise BrokenError("the layer is gone")


PHASES: dict[str, Callable[[], object]] = {
    "check": lambda: check(broken, nothing),
    "warm up": lambda: warm_up(ReplayTimer([1.0]), broken, WarmUpRule()),
    "sample": lambda: sample(ReplayTimer([1.0]), broken, StoppingRule()),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_callable_that_raises_names_the_phase_and_keeps_the_cause(phase: str) -> None:
    with pytest.raises(MeasurementError, match=f"^{phase}: the callable raised BrokenError: the layer is gone") as got:
        PHASES[phase]()
    assert isinstance(got.value.__cause__, BrokenError)


def test_an_error_of_asynchronous_work_surfaces_in_the_check() -> None:
    with pytest.raises(MeasurementError, match="check: the callable raised BrokenError"):
        check(nothing, broken)


def test_a_raise_after_a_pause_is_named_too() -> None:
    calls = itertools.count()

    def second_fails() -> None:
        if next(calls) == 1:
            raise BrokenError("gone")

    with pytest.raises(MeasurementError, match="sample: the callable raised BrokenError"):
        sample(ReplayTimer(itertools.repeat(1.0)), second_fails, StoppingRule(), lambda samples, seconds: True)


def interrupted() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        sample(ReplayTimer([1.0]), interrupted, StoppingRule())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_cannot_be_is_an_error(bad: float) -> None:
    with pytest.raises(MeasurementError, match="which no call can take"):
        sample(ReplayTimer([1.0, bad, 1.0]), nothing, StoppingRule())
    with pytest.raises(MeasurementError, match="warm up: the timer"):
        warm_up(ReplayTimer([1.0, bad, 1.0]), nothing, WarmUpRule())


@pytest.mark.parametrize(
    "changes",
    [
        {"target_relative": 0.0},
        {"min_samples": 0},
        {"min_seconds": -1.0},
        {"max_seconds": 0.0},
        {"min_seconds": 2.0, "max_seconds": 1.0},
        {"max_samples": 10},
        {"level": 1.0},
        {"growth": 1.0},
        {"max_seconds": math.nan},
    ],
)
def test_a_rule_that_cannot_be_held_is_an_error(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="it must be"):
        StoppingRule(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["agreement", "window_iterations", "window_seconds", "max_seconds"])
def test_a_warm_up_that_cannot_be_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="it must be"):
        WarmUpRule(**{name: -1})  # type: ignore[arg-type]
