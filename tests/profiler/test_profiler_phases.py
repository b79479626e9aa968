from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.phases import Look, Sampler, StoppingRule, WarmUpRule, check, sample, summarise, warm_up
from vnas.profiler.timers import ReplayTimer


def nothing() -> None:
    pass


EXACT_MS = 15.625
"""1/64 s, which sums without rounding; a block of .05 s holds four."""


class Scripted:
    """Looks that were written down."""

    block_seconds = 0.05
    quiet_us: float | None = None

    def __init__(self, looks: Iterator[Look], quiet_us: float | None = None) -> None:
        self._looks = looks
        self.quiet_us = quiet_us

    def look(self) -> Look:
        return next(self._looks)


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
    assert summary.notes[0].startswith("too few samples for a 95% interval of the median: from the smallest to the")
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
    trace=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=200),
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
    # Short calls are made in runs of a millisecond, at whose end the clock is looked at.
    assert sum(sampling.samples_ms[:-1]) / 1e3 <= (max_seconds + 1e-3) * (1 + 1e-9)
    if sampling.stop_reason == "target met":
        assert n >= min_samples
        assert summarise(sampling, rule).noise_ok


@given(trace=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=200), turn=st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=80)
def test_blocks_cut_the_samples_into_pieces_in_order(trace: list[float], turn: float) -> None:
    rule = StoppingRule(min_seconds=0.0, max_seconds=2.0)
    sampler = Sampler(ReplayTimer(itertools.cycle(trace)), nothing, rule, process=3)
    while sampler.stop_reason is None:
        sampler.turn(turn)
    found = sampler.result()
    assert sum(block.count for block in found.blocks) == len(found.samples_ms)
    assert all(block.count > 0 and block.process == 3 and block.discarded is None for block in found.blocks)
    starts = [(block.round, block.start_seconds) for block in found.blocks]
    assert starts == sorted(starts)
    taken = 0.0
    at = 0
    for block in found.blocks:
        assert block.start_seconds == pytest.approx(taken, abs=1e-5)
        taken += sum(found.samples_ms[at : at + block.count]) / 1e3
        at += block.count
    assert found.seconds == pytest.approx(taken)


def test_what_the_device_did_between_two_turns_is_not_sampled() -> None:
    calls: list[str] = []
    timer = ReplayTimer(itertools.repeat(EXACT_MS))
    rule = StoppingRule(min_samples=1000, max_seconds=100.0)
    sampler = Sampler(timer, lambda: calls.append("call"), rule)
    sampler.turn(0.125)
    timer.time(nothing)  # another net has the device
    sampler.turn(0.125, after_another=True)
    sampler.turn(0.125)
    assert sampler.seconds == pytest.approx(0.375)
    assert len(sampler.samples) == 24
    assert len(calls) == sampler.calls == 25  # one untimed, after the other net
    assert {block.round for block in sampler.result().blocks} == {0, 1, 2}


def test_an_untimed_call_follows_a_look_that_took_long() -> None:
    calls: list[str] = []
    looks = Scripted(iter([Look(), Look(away=True), *itertools.repeat(Look(), 50)]))
    rule = StoppingRule(min_samples=10, min_seconds=0.0)
    sampling = sample(ReplayTimer(itertools.repeat(10.0)), lambda: calls.append("call"), rule, looks)
    assert len(sampling.samples_ms) == 10
    assert len(calls) == 11


def test_waiting_for_a_quieter_machine_is_not_sampling() -> None:
    timer = ReplayTimer(itertools.repeat(EXACT_MS))

    class Waits:
        block_seconds = 0.0
        quiet_us = None

        def look(self) -> Look:
            timer.time(nothing)  # 1/64 s pass
            return Look(waited_seconds=1 / 64)

    rule = StoppingRule(min_samples=1000, max_seconds=1.0)
    sampling = sample(timer, nothing, rule, Waits())
    assert len(sampling.samples_ms) == 64
    assert sampling.seconds == 1.0


def test_a_long_call_needs_no_untimed_one() -> None:
    calls: list[str] = []
    looks = Scripted(itertools.repeat(Look(away=True)))
    rule = StoppingRule(min_samples=10, min_seconds=0.0)
    sampling = sample(ReplayTimer(itertools.repeat(100.0)), lambda: calls.append("call"), rule, looks)
    assert len(calls) == len(sampling.samples_ms) + 1  # the first look is before any sample


def fast_and_slow(slow_from: int, slow_to: int) -> tuple[Iterator[float], Iterator[Look]]:
    """Calls of 10 ms, five a block; 15 ms, and a pace of 8 us for 5, in blocks slow_from .. slow_to."""

    def slow(block: int) -> bool:
        return slow_from <= block <= slow_to

    times = (15.0 if slow(i // 5) else 10.0 for i in itertools.count())
    # Look 0 comes before block 0, look i + 1 after block i.
    looks = (Look(pace_us=8.0 if slow(i - 1) and slow(i) else 5.0) for i in itertools.count())
    return times, looks


def test_samples_taken_while_the_machine_was_slowed_are_put_aside() -> None:
    times, looks = fast_and_slow(4, 9)
    rule = StoppingRule(min_samples=60, min_seconds=0.0)
    # A block of 15 ms calls is full after four of them, so count on the looks alone.
    sampling = sample(ReplayTimer(times), nothing, rule, Scripted(looks, quiet_us=5.0))
    slowed = [block for block in sampling.blocks if block.discarded == "slowed"]
    assert slowed
    assert all(block.pace_us == 8.0 for block in slowed)
    assert len(sampling.discarded_ms) == sum(block.count for block in slowed)
    assert len(sampling.samples_ms) >= 60
    assert sampling.valid
    assert not sampling.disturbed


def test_where_too_few_samples_are_undisturbed_the_least_disturbed_ones_fill_up_and_it_says_so() -> None:
    paces = itertools.chain([5.0] * 3, [6.0] * 5, [7.0] * 20, itertools.repeat(9.0))
    looks = Scripted((Look(pace_us=us) for us in paces), quiet_us=5.0)
    rule = StoppingRule(target_relative=1e-9, min_samples=20, min_seconds=0.0, max_seconds=2.0)
    noise = itertools.cycle([15.0, 15.625])
    sampling = sample(ReplayTimer(noise), nothing, rule, looks)
    # Two blocks are quiet, five more have 6 at their slower end, of four samples at most each.
    kept = [block.pace_us for block in sampling.blocks if block.discarded is None]
    assert kept == [5.0, 5.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert 20 <= len(sampling.samples_ms) <= 28
    assert sampling.disturbed


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_looks_at_the_device_and_at_the_interval_stay_rare_however_much_is_put_aside(share: float) -> None:
    """A block of 50 ms holds five calls of 10 ms or more, but where a look at the interval is due."""
    random = Random(1)
    paces = (Look(pace_us=8.0 if random.random() < share else 5.0) for _ in itertools.count())
    rule = StoppingRule(target_relative=1e-9, min_samples=50, min_seconds=0.0, max_seconds=15.0)
    noise = itertools.cycle([9.0, 11.0])
    sampling = sample(ReplayTimer(noise), nothing, rule, Scripted(paces, quiet_us=5.0))
    by_time = len(sampling.samples_ms + sampling.discarded_ms) / 5
    # Each of the looks at the interval, some 5 + log(1500 / 50) / log(1.25), may cut a block short.
    assert len(sampling.blocks) <= by_time + 30


class CountingTimer(ReplayTimer):
    """Counts how often it is asked what time it is."""

    asked = 0

    def now(self) -> float:
        self.asked += 1
        return super().now()


def test_short_calls_are_taken_in_runs_between_two_looks_at_the_clock() -> None:
    timer = CountingTimer(itertools.cycle([0.019, 0.021]))
    rule = StoppingRule(target_relative=1e-9, min_samples=50, min_seconds=0.0, max_samples=10_007)
    sampling = sample(timer, nothing, rule)
    assert len(sampling.samples_ms) == 10_007
    assert timer.asked < 10_007 / 5
    long = CountingTimer(itertools.cycle([1.0, 1.5]))
    sample(long, nothing, rule)
    assert long.asked >= 10_007


def test_a_boost_at_the_beginning_is_not_taken_for_the_machine() -> None:
    """Five blocks of a boosted clock, then a machine that is 12 % slower for good."""
    looks = Scripted((Look(pace_us=us) for us in itertools.chain([5.0] * 6, itertools.repeat(5.6))), quiet_us=5.0)
    rule = StoppingRule(target_relative=1e-9, min_samples=20, min_seconds=0.0, max_seconds=3.0)
    noise = itertools.chain([10.0, 10.25] * 10, itertools.cycle([11.0, 11.25]))
    sampling = sample(ReplayTimer(noise), nothing, rule, looks)
    assert statistics.median(sampling.samples_ms) >= 11.0
    assert sampling.discarded_ms == ()
    assert not sampling.disturbed


def test_throttled_samples_are_thrown_away_and_others_taken() -> None:
    looks = Scripted(iter([Look(), Look(), Look(throttled=True), *itertools.repeat(Look(), 100)]))
    sampling = sample(ReplayTimer(itertools.repeat(EXACT_MS)), nothing, StoppingRule(min_seconds=0.0), looks)
    # The look after the second block saw it: what lies before and after that look does not count.
    assert [block.discarded for block in sampling.blocks[:4]] == [None, "throttled", "throttled", None]
    assert len(sampling.discarded_ms) == 8
    assert len(sampling.samples_ms) == 50
    assert (sampling.stop_reason, sampling.valid) == ("target met", True)


def test_a_result_that_is_mostly_throttled_is_invalid() -> None:
    looks = Scripted(itertools.chain([Look()] * 4, itertools.repeat(Look(throttled=True))))
    sampling = sample(ReplayTimer(itertools.repeat(EXACT_MS)), nothing, StoppingRule(max_seconds=1.0), looks)
    assert not sampling.valid
    assert len(sampling.samples_ms) == 12
    assert len(sampling.discarded_ms) == 52
    assert sampling.stop_reason == "time limit"


def test_a_result_that_is_all_throttled_is_invalid_and_shows_what_there_is() -> None:
    looks = Scripted(itertools.repeat(Look(throttled=True)))
    sampling = sample(ReplayTimer(itertools.repeat(EXACT_MS)), nothing, StoppingRule(max_seconds=1.0), looks)
    assert not sampling.valid
    assert len(sampling.samples_ms) == 64
    assert sampling.discarded_ms == ()


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

    looks = Scripted(iter([Look(), Look(away=True)]))
    with pytest.raises(MeasurementError, match="sample: the callable raised BrokenError"):
        sample(ReplayTimer(itertools.repeat(50.0)), second_fails, StoppingRule(), looks)


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
        {"stop_level": 0.9},
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
