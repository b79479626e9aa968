"""A measurement as named phases: check, warm up, sample, summarise. None of them knows what is timed, or where.

check        one call, so that a callable that cannot run says so at once
warm up      until two successive windows have the same median, or the cap
sample       until the interval of the median is narrow enough, or the time limit
summarise    median, interval, was the noise target met
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.statistics import MedianInterval, median_interval
from vnas.profiler.timers import Call, Timer

T = TypeVar("T")

StopReason = Literal["target met", "time limit", "sample limit"]

Between = Callable[[Sequence[float], float], bool]
"""Called between samples with those taken so far (ms) and the seconds gone by. True where it took long enough
for the device to cool down or its caches to be used by others: one untimed call then precedes the next sample."""


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

    The interval is looked at only when the count has grown by ``growth`` since the last look, which bounds both
    the time spent on sorting and the bias of stopping at a lucky moment.

    Attributes:
        target_relative: width of the interval over the median to get below.
        min_samples: never fewer, the time limit aside.
        min_seconds: never shorter, the sample limit aside.
        max_seconds: the time limit.
        max_samples: the sample limit; bounds what is kept of a call of a few microseconds.
        level: coverage of the interval.
        growth: factor between the counts at which the interval is looked at.
    """

    target_relative: float = 0.01
    min_samples: int = 50
    min_seconds: float = 0.5
    max_seconds: float = 15.0
    max_samples: int = 100_000
    level: float = 0.95
    growth: float = 1.1

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
        _require(self.growth > 1, "growth", self.growth, "more than 1, e.g. 1.1")

    def met_by(self, interval: MedianInterval) -> bool:
        """Whether the interval is narrow enough, and covers what it should."""
        return interval.level >= self.level and interval.relative_width <= self.target_relative


@dataclass(frozen=True)
class WarmUp:
    """What warming up took, and whether it ended because the device was steady."""

    iterations: int
    seconds: float
    steady: bool


@dataclass(frozen=True)
class Sampling:
    """The samples, in the order they were taken, and why there are no more."""

    samples_ms: tuple[float, ...]
    seconds: float
    stop_reason: StopReason


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


def sample(
    timer: Timer, call: Call, rule: StoppingRule, between: Between | None = None, phase: str = "sample"
) -> Sampling:
    """Time the call until the rule says stop; at least once. Every sample is kept.

    Raises:
        MeasurementError: the callable raised, or the timer gave a time that cannot be.
    """
    samples: list[float] = []
    start = timer.now()
    next_look = rule.min_samples
    while True:
        samples.append(_take(timer, call, phase))
        seconds = timer.now() - start
        due = len(samples) >= next_look and seconds >= rule.min_seconds
        limit: StopReason | None = None
        if seconds >= rule.max_seconds:
            limit = "time limit"
        elif len(samples) >= rule.max_samples:
            limit = "sample limit"
        if due or (limit is not None and len(samples) >= rule.min_samples):
            if rule.met_by(median_interval(samples, rule.level)):
                return Sampling(tuple(samples), seconds, "target met")
            next_look = math.ceil(len(samples) * rule.growth)
        if limit is not None:
            return Sampling(tuple(samples), seconds, limit)
        if between is not None and between(samples, seconds):
            guarded(call, phase)


def summarise(sampling: Sampling, rule: StoppingRule) -> Summary:
    """Median and interval; where the target was missed, a note that says by how much and what to do."""
    interval = median_interval(sampling.samples_ms, rule.level)
    noise_ok = rule.met_by(interval)
    notes: list[str] = []
    n = len(sampling.samples_ms)
    if interval.level < rule.level:
        notes.append(
            f"{n} samples are too few for a {rule.level:.0%} interval of the median: from the smallest to the "
            f"largest covers {interval.level:.0%}; raise max_seconds = {rule.max_seconds:g}"
        )
    elif not noise_ok:
        notes.append(
            f"noise target missed: the interval is {interval.relative_width:.1%} of the median, the target "
            f"{rule.target_relative:.1%}, at the {sampling.stop_reason} ({n} samples in {sampling.seconds:.3g} s)"
        )
    return Summary(interval, noise_ok, tuple(notes))


def guarded(step: Callable[[], T], phase: str) -> T:
    """Run a step of the measured code; an exception of its becomes a MeasurementError that names the phase."""
    try:
        return step()
    except MeasurementError:
        raise
    except Exception as error:
        raise MeasurementError(f"{phase}: the callable raised {type(error).__name__}: {error}") from error


def _take(timer: Timer, call: Call, phase: str) -> float:
    elapsed = guarded(lambda: timer.time(call), phase)
    if not (math.isfinite(elapsed) and elapsed > 0):
        raise MeasurementError(
            f"{phase}: the timer ({timer.name}) gave {elapsed} ms, which no call can take; "
            "does the callable do its work on the device that is measured?"
        )
    return elapsed


def _require(ok: bool, name: str, value: float, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{name} = {value}; it must be {allowed}")
