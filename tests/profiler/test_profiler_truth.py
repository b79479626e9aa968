"""Injected truth: a replayed timer whose median is known, and whether the interval holds it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from vnas.profiler import ReplayTimer, measure
from vnas.profiler.phases import Sampling, StoppingRule, Summary, sample, summarise
from vnas.profiler.statistics import dependence

Noise = Callable[[np.random.Generator, int], np.ndarray]

TRUE_MS = 10.0

INDEPENDENT: dict[str, Noise] = {
    "normal": lambda rng, n: 1.0 + 0.03 * rng.standard_normal(n),
    "skewed": lambda rng, n: np.exp(0.06 * rng.standard_normal(n)),
    # Cauchy has no mean and no variance; its median is 0.
    "heavy-tailed": lambda rng, n: 1.0 + 0.01 * np.clip(rng.standard_cauchy(n), -90.0, 1e6),
    "two modes": lambda rng, n: np.where(rng.random(n) < 0.5, 0.97, 1.03) + 0.008 * rng.standard_normal(n),
    "a slow one in ten": lambda rng, n: (
        1.0 + 0.02 * rng.standard_normal(n) - 0.02 * 0.1397103 + 0.5 * (rng.random(n) < 0.1)
    ),
}
"""Factors of a sample; the true median of each is 1. In the last, 0.9 Phi(z) = 0.5 at z = 0.1397103."""

RULE = StoppingRule(min_seconds=0.0, max_seconds=10.0)


def replay(noise: Noise, rng: np.random.Generator, rule: StoppingRule = RULE) -> tuple[Sampling, Summary]:
    def trace() -> Iterator[float]:
        while True:
            yield from (TRUE_MS * noise(rng, 500)).tolist()

    sampling = sample(ReplayTimer(trace()), lambda: None, rule)
    return sampling, summarise(sampling, rule)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_interval_holds_the_true_median_in_93_to_97_of_100_runs(name: str) -> None:
    rng = np.random.default_rng(20_261_124)
    runs = 1000
    held = 0
    for _ in range(runs):
        _, summary = replay(INDEPENDENT[name], rng)
        held += summary.interval.low <= TRUE_MS <= summary.interval.high
    assert 0.93 <= held / runs <= 0.97


@pytest.mark.parametrize("name", ["normal", "heavy-tailed"])
def test_the_target_is_met_where_it_can_be(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        sampling, summary = replay(INDEPENDENT[name], rng)
        assert sampling.stop_reason == "target met"
        assert summary.noise_ok
        assert summary.interval.relative_width <= 0.01


def slow_drift(rng: np.random.Generator, amplitude: float = 0.05) -> Iterator[float]:
    """A swing of several seconds, as of a clock that follows the temperature, under noise of 1 %."""
    for i in itertools.count():
        yield TRUE_MS * (1.0 + amplitude * math.sin(i / 100.0) + 0.01 * rng.standard_normal())


def spells(rng: np.random.Generator) -> Iterator[float]:
    """Two states 30 % apart that each last a third of a second or so."""
    slow = False
    while True:
        slow = not slow
        for _ in range(rng.geometric(0.03)):
            yield TRUE_MS * ((1.3 if slow else 1.0) + 0.01 * rng.standard_normal())


@pytest.mark.parametrize("trace", [slow_drift, spells])
def test_drift_and_spells_are_not_called_steady(trace: Callable[[np.random.Generator], Iterator[float]]) -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(20):
        rule = StoppingRule(min_seconds=10.0, max_seconds=15.0)
        sampling = sample(ReplayTimer(trace(rng)), lambda: None, rule)
        summary = summarise(sampling, rule)
        missed += not summary.noise_ok
        if not summary.noise_ok:
            assert any(note.startswith("noise target missed: the interval is ") for note in summary.notes)
            assert any("the samples depend on each other" in note for note in summary.notes)
    assert missed >= 19


def test_measure_says_that_the_target_was_missed() -> None:
    rng = np.random.default_rng(0)
    result = measure(lambda: None, timer=ReplayTimer(spells(rng)), min_seconds=5.0)
    assert not result.noise_ok
    assert result.stop_reason == "time limit"
    assert any(note.startswith("noise target missed") for note in result.notes)


def test_independent_samples_are_taken_as_independent() -> None:
    rng = np.random.default_rng(8)
    widened = sum(dependence(rng.standard_normal(400).tolist()) > 1.0 for _ in range(1000))
    assert widened <= 15  # one in two hundred by chance


@pytest.mark.parametrize("rho", [0.8, 0.95])
def test_what_a_sample_of_a_known_process_is_worth(rho: float) -> None:
    # The signs of a Gaussian AR(1) correlate by 2/pi arcsin(rho^k) (Sheppard 1899); the sum of all lags is the worth.
    truth = 1.0 + 2.0 * sum(2.0 / math.pi * math.asin(rho**lag) for lag in range(1, 400))
    rng = np.random.default_rng(2)
    found = []
    for _ in range(200):
        noise = rng.standard_normal(4000)
        x = np.empty(4000)
        x[0] = noise[0]
        for i in range(1, 4000):
            x[i] = rho * x[i - 1] + math.sqrt(1.0 - rho * rho) * noise[i]
        found.append(dependence(x.tolist()))
    assert np.mean(found) == pytest.approx(truth, rel=0.2)
