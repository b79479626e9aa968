"""A measurement as named phases: check, warm up, sample, summarise. None of them knows what is timed, or where.

check        one call, so that a callable that cannot run says so at once
warm up      until two successive windows have the same median, or the cap
sample       in blocks, over one turn or many, until the interval of the median is narrow enough, or the time limit
summarise    median, interval, was the noise target met
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.blocks import Block, disturbed, sift, split
from vnas.profiler.statistics import MedianInterval, dependence, median_interval
from vnas.profiler.timers import Call, Timer

T = TypeVar("T")

StopReason = Literal["target met", "time limit", "sample limit"]

MAX_DISCARDED = 0.5
"""Share of the samples that may be thrown away as throttled before the result is invalid."""

LEAST_SHARE = 0.1
"""Of the samples that is taken to count from here to the next look at the interval, at least."""

RUN_MS = 1.0
"""Of short calls between two looks at the clock, each of which takes as long as some of them."""

LONG_CALL_MS = 100.0
"""From here on the few milliseconds of a look are no pause that an untimed call would have to make good."""


@dataclass(frozen=True)
class Look:
    """What a look at the device between two blocks says.

    Attributes:
        pace_us: of the CPU (``pace``); None on a GPU.
        throttled: the hardware slowed down at some time since the last look, or does so now.
        away: the look took long enough for the device to cool down or its caches to be used by others, so that an
            untimed call precedes the next sample.
        waited_seconds: spent on waiting for a quieter machine; they do not count as sampling.
    """

    pace_us: float | None = None
    throttled: bool = False
    away: bool = False
    waited_seconds: float = 0.0


class Looks(Protocol):
    """Looks at the device between blocks of samples."""

    block_seconds: float
    """Of sampling between two looks."""

    @property
    def quiet_us(self) -> float | None:
        """Pace of the undisturbed machine, as far as seen; None on a GPU."""
        ...

    def look(self) -> Look:
        """The device now, and since the last look."""
        ...


class NoLooks:
    """For a timer that has no device."""

    block_seconds = 0.05
    quiet_us = None

    def look(self) -> Look:
        """Nothing."""
        return Look()


@dataclass(frozen=True)
class WarmUpRule:
    """When the device is steady.

    Attributes:
        agreement: two successive windows whose medians differ by less than this share are steady.
        window_iterations: calls in a window, at least.
        window_seconds: seconds in a window, at least; a GPU needs tens of milliseconds to raise its clocks.
        max_seconds: the cap, at which a device that is still not steady is measured anyway (and said so).
    """

    agreement: float = 0.02
    window_iterations: int = 5
    window_seconds: float = 0.1
    max_seconds: float = 3.0

    def __post_init__(self) -> None:
        _require(self.agreement > 0, "agreement", self.agreement, "more than 0, e.g. 0.02")
        _require(self.window_iterations >= 1, "window_iterations", self.window_iterations, "at least 1")
        _require(self.window_seconds >= 0, "window_seconds", self.window_seconds, "at least 0")
        _require(self.max_seconds >= 0, "max_warmup_seconds", self.max_seconds, "at least 0")


@dataclass(frozen=True)
class StoppingRule:
    """When there are enough samples: the interval of the median is narrower than the target.

    To stop at the first moment at which an interval happens to be narrow would bias it: two modes of equal weight
    would be covered in 83 % of runs instead of 95. So the interval that is held against the target is one of 99 %,
    and it is looked at only when the count has grown by ``growth`` since the last time; the one reported is of
    ``level``. Coverage is then 94 to 96 % for the shapes of noise in tests/profiler/test_profiler_truth.py, in 8,000
    runs of each; the test makes 1,000 and allows 93 to 97.

    Attributes:
        target_relative: width of the interval over the median to get below.
        min_samples: never fewer, the time limit aside.
        min_seconds: never shorter, the sample limit aside.
        max_seconds: the time limit.
        max_samples: the sample limit; bounds what is kept of a call of a few microseconds.
        level: coverage of the interval that is reported.
        stop_level: coverage of the interval that must be narrow enough.
        growth: factor between the counts at which the interval is looked at.
    """

    target_relative: float = 0.01
    min_samples: int = 50
    min_seconds: float = 0.5
    max_seconds: float = 15.0
    max_samples: int = 100_000
    level: float = 0.95
    stop_level: float = 0.99
    growth: float = 1.25

    def __post_init__(self) -> None:
        _require(self.target_relative > 0, "target_relative", self.target_relative, "more than 0, e.g. 0.01")
        _require(self.min_samples >= 1, "min_samples", self.min_samples, "at least 1")
        _require(self.min_seconds >= 0, "min_seconds", self.min_seconds, "at least 0")
        _require(self.max_seconds > 0, "max_seconds", self.max_seconds, "more than 0")
        _require(
            self.min_seconds <= self.max_seconds,
            "min_seconds",
            self.min_seconds,
            f"at most max_seconds = {self.max_seconds}",
        )
        _require(
            self.max_samples >= self.min_samples,
            "max_samples",
            self.max_samples,
            f"at least min_samples = {self.min_samples}",
        )
        _require(0 < self.level < 1, "level", self.level, "between 0 and 1, e.g. 0.95")
        _require(self.level <= self.stop_level < 1, "stop_level", self.stop_level, f"from level = {self.level} to 1")
        _require(self.growth > 1, "growth", self.growth, "more than 1, e.g. 1.25")

    def met_by(self, interval: MedianInterval) -> bool:
        """Whether an interval that is to be reported is narrow enough, and covers what it should."""
        return interval.level >= self.level and interval.relative_width <= self.target_relative


@dataclass(frozen=True)
class WarmUp:
    """What warming up took, and whether it ended because the device was steady."""

    iterations: int
    seconds: float
    steady: bool


@dataclass(frozen=True)
class Sampling:
    """The samples, in the order they were taken, and why there are no more.

    Attributes:
        samples_ms: those that count.
        discarded_ms: the others.
        blocks: of both.
        seconds: spent sampling, the looks included.
        stop_reason: why there are no more.
        worth: samples that are worth one independent one.
        valid: no more was thrown away than may be.
        quiet_us: pace of the undisturbed machine, as far as seen.
        disturbed: some that count were taken while the machine was slowed, for want of others.
    """

    samples_ms: tuple[float, ...]
    discarded_ms: tuple[float, ...]
    blocks: tuple[Block, ...]
    seconds: float
    stop_reason: StopReason
    worth: float
    valid: bool
    quiet_us: float | None
    disturbed: bool


@dataclass(frozen=True)
class Summary:
    """What the samples say."""

    interval: MedianInterval
    noise_ok: bool
    notes: tuple[str, ...]


def check(call: Call, finish: Call, phase: str = "check") -> None:
    """Make the call once and wait for it, untimed: it also pays for whatever is loaded at first use.

    Args:
        call: what will be measured.
        finish: waits until the device is done; errors of asynchronous work surface here.
        phase: what an error names.

    Raises:
        MeasurementError: the callable raised; the original is the cause.
    """
    guarded(lambda: (call(), finish()), phase)


def warm_up(timer: Timer, call: Call, rule: WarmUpRule) -> WarmUp:
    """Call until two successive windows agree, or the cap.

    Raises:
        MeasurementError: the callable raised, or the timer gave a time that cannot be.
    """
    start = timer.now()
    iterations = 0
    previous: float | None = None
    while True:
        window: list[float] = []
        window_start = timer.now()
        while len(window) < rule.window_iterations or timer.now() - window_start < rule.window_seconds:
            if timer.now() - start >= rule.max_seconds:
                return WarmUp(iterations, timer.now() - start, steady=False)
            window.append(_take(timer, call, "warm up"))
            iterations += 1
        median = statistics.median(window)
        if previous is not None and abs(median - previous) < rule.agreement * min(median, previous):
            return WarmUp(iterations, timer.now() - start, steady=True)
        previous = median


def sample(timer: Timer, call: Call, rule: StoppingRule, looks: Looks | None = None, phase: str = "sample") -> Sampling:
    """Time the call until the rule says stop; at least once. Every sample is kept.

    Raises:
        MeasurementError: the callable raised, or the timer gave a time that cannot be.
    """
    sampler = Sampler(timer, call, rule, looks, phase)
    while sampler.stop_reason is None:
        sampler.turn()
    return sampler.result()


class Sampler:
    """Samples over turns, between which the device may do something else.

    Args:
        timer: times single calls.
        call: what is timed.
        rule: when to stop.
        looks: at the device between blocks.
        phase: what errors name.
        process: number of this process.
    """

    def __init__(
        self,
        timer: Timer,
        call: Call,
        rule: StoppingRule,
        looks: Looks | None = None,
        phase: str = "sample",
        process: int = 0,
    ) -> None:
        self._timer, self._call, self._rule, self._phase = timer, call, rule, phase
        self._looks: Looks = NoLooks() if looks is None else looks
        self._process = process
        self._samples: list[float] = []
        self._blocks: list[Block] = []
        self._round = -1
        self._offset = 0.0
        self._next_check = rule.min_samples
        self._last_look: Look | None = None
        self.seconds = 0.0
        self.calls = 0
        self.stop_reason: StopReason | None = None

    @property
    def samples(self) -> list[float]:
        """All so far."""
        return self._samples

    def turn(self, seconds: float = math.inf, after_another: bool = False) -> None:
        """Sample for so long, or until the rule says stop.

        Args:
            seconds: of this turn.
            after_another: the device did something else since the last turn.
        """
        if self.stop_reason is not None:
            return
        self._round += 1
        # What the clock shows less this is the time of sampling so far.
        self._offset = self._timer.now() - self.seconds
        end = self.seconds + seconds
        look = self._last_look
        if look is None or after_another:
            look = self._look()
            self._make_good(look, after_another)
        while self.stop_reason is None and self.seconds < end:
            look = self._block(end, look)
        self._last_look = look

    def result(self) -> Sampling:
        """What has been sampled."""
        blocks, quiet_us = self._sifted(), self._looks.quiet_us
        kept, others = split(blocks, self._samples)
        valid = True
        if not kept or _share(blocks, "throttled") > MAX_DISCARDED:
            valid = False
        if not kept:
            kept, others = others, ()
            blocks = [dataclasses.replace(block, discarded=None) for block in blocks]
        return Sampling(
            samples_ms=kept,
            discarded_ms=others,
            blocks=tuple(blocks),
            seconds=self.seconds,
            stop_reason=self.stop_reason or "time limit",
            worth=dependence(kept),
            valid=valid,
            quiet_us=quiet_us,
            disturbed=disturbed(blocks, quiet_us),
        )

    def _look(self) -> Look:
        look = self._looks.look()
        self._offset += look.waited_seconds
        return look

    def _block(self, turn_end: float, before: Look) -> Look:
        """One block of samples and the look after it."""
        rule, timer, samples = self._rule, self._timer, self._samples
        first = len(samples)
        opened = timer.now() - self._offset
        while True:
            self._run()
            self.seconds = timer.now() - self._offset
            count = len(samples) - first
            check_due = len(samples) >= self._next_check and self.seconds >= rule.min_seconds
            limit = self.seconds >= rule.max_seconds or len(samples) >= rule.max_samples
            if check_due or limit or self.seconds - opened >= self._looks.block_seconds or self.seconds >= turn_end:
                break
        self.calls += count
        look = self._look()
        paces = [pace for pace in (before.pace_us, look.pace_us) if pace is not None]
        self._blocks.append(
            Block(
                process=self._process,
                round=self._round,
                start_seconds=round(opened, 6),
                count=count,
                pace_us=max(paces) if paces else None,
                discarded="throttled" if before.throttled or look.throttled else None,
            )
        )
        self.seconds = timer.now() - self._offset
        if check_due or limit:
            self._check(limit)
        if self.stop_reason is None:
            self._make_good(look)
        return look

    def _run(self) -> None:
        """Calls one after the other, until it is time to look at the clock; as many as may be, or a check is due."""
        time, call, samples = self._timer.time, self._call, self._samples
        room, due = self._rule.max_samples - len(samples), self._next_check - len(samples)
        run_ms = 0.0
        # As in ``_take``, without a call of it for each sample: one may be of microseconds.
        try:
            for _ in range(due if 0 < due < room else room):
                elapsed = time(call)
                if not 0.0 < elapsed < math.inf:
                    raise _impossible(self._timer, elapsed, self._phase)
                samples.append(elapsed)
                run_ms += elapsed
                if run_ms >= RUN_MS:
                    return
        except MeasurementError:
            raise
        except Exception as error:
            raise _raised(error, self._phase) from error

    def _check(self, at_limit: bool) -> None:
        rule = self._rule
        blocks = self._sifted()
        kept, _ = split(blocks, self._samples)
        if len(kept) >= rule.min_samples:
            values = np.asarray(kept)  # once for both, which takes longer than either
            interval = median_interval(values, rule.stop_level, dependence(values))
            if interval.level >= rule.stop_level and interval.relative_width <= rule.target_relative:
                self.stop_reason = "target met"
                return
        # The next look at the interval is due when those that count have grown; as many will be put aside as so far.
        share = max(len(kept) / len(self._samples), LEAST_SHARE)
        missing = rule.min_samples - len(kept)
        growth = math.ceil(len(kept) * (rule.growth - 1.0) / share)
        self._next_check = len(self._samples) + (missing if missing > 0 else growth)
        if at_limit:
            self.stop_reason = "time limit" if self.seconds >= rule.max_seconds else "sample limit"

    def _sifted(self) -> list[Block]:
        return sift(self._blocks, self._looks.quiet_us, self._rule.min_samples)

    def _make_good(self, look: Look, after_another: bool = False) -> None:
        """An untimed call, where the next sample would otherwise find a device that did something else."""
        short = not self._samples or self._samples[-1] < LONG_CALL_MS
        if after_another or (look.away and short):
            guarded(self._call, self._phase)
            self.calls += 1


def summarise(sampling: Sampling, rule: StoppingRule) -> Summary:
    """Median and interval; where the target was missed, a note that says by how much and what to do."""
    interval = median_interval(sampling.samples_ms, rule.level, sampling.worth)
    noise_ok = rule.met_by(interval)
    notes: list[str] = []
    n = len(sampling.samples_ms)
    if interval.level < rule.level:
        notes.append(
            f"too few samples for a {rule.level:.0%} interval of the median: from the smallest to the largest of {n} "
            f"covers {interval.level:.0%}; raise max_seconds = {rule.max_seconds:g}"
        )
    elif not noise_ok:
        notes.append(
            f"noise target missed: the interval is {interval.relative_width:.1%} of the median, the target "
            f"{rule.target_relative:.1%}, at the {sampling.stop_reason} ({n} samples in {sampling.seconds:.3g} s)"
        )
    if sampling.worth > 1.0:
        notes.append(
            f"the samples depend on each other (drift or spells): {sampling.worth:.2g} of them are worth one, and the "
            f"interval is {math.sqrt(sampling.worth):.2g} times as wide for it"
        )
    return Summary(interval, noise_ok, tuple(notes))


def _share(blocks: list[Block], reason: str) -> float:
    total = sum(block.count for block in blocks)
    return sum(block.count for block in blocks if block.discarded == reason) / total if total else 0.0


def guarded(step: Callable[[], T], phase: str) -> T:
    """Run a step of the measured code; an exception of its becomes a MeasurementError that names the phase."""
    try:
        return step()
    except MeasurementError:
        raise
    except Exception as error:
        raise _raised(error, phase) from error


def _raised(error: Exception, phase: str) -> MeasurementError:
    return MeasurementError(f"{phase}: the callable raised {type(error).__name__}: {error}")


def _take(timer: Timer, call: Call, phase: str) -> float:
    elapsed = guarded(lambda: timer.time(call), phase)
    if not 0.0 < elapsed < math.inf:
        raise _impossible(timer, elapsed, phase)
    return elapsed


def _impossible(timer: Timer, elapsed: float, phase: str) -> MeasurementError:
    return MeasurementError(
        f"{phase}: the timer ({timer.name}) gave {elapsed} ms, which no call can take; "
        "does the callable do its work on the device that is measured?"
    )


def _require(ok: bool, name: str, value: float, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{name} = {value}; it must be {allowed}")
