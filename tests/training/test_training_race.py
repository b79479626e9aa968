from collections.abc import Callable, Iterable
from itertools import chain, repeat

import pytest

from vnas.training.speed.race import LEAST_ROUNDS, ROUNDS, Race, Steps, race


class Track:
    """Contenders that take a time told in advance, on a clock that stands still otherwise."""

    def __init__(self, **paces: float | Iterable[float]) -> None:
        self.now = 0.0
        self.taken = dict.fromkeys(paces, 0)
        self.order: list[str] = []
        self._paces = {
            name: repeat(float(pace)) if isinstance(pace, float | int) else iter(pace) for name, pace in paces.items()
        }

    def make(self, name: str) -> Steps:
        def steps(count: int) -> float:
            seconds = next(self._paces[name]) * count
            self.now += seconds
            self.taken[name] += count
            self.order.append(name)
            return seconds

        return steps

    def run(self, allowed: float = 1e9, **options: Callable[[float], float]) -> Race[str] | float:
        allowance = options.get("allowance", lambda step_seconds: allowed)
        return race(list(self.taken), self.make, allowance, lambda: self.now)


def ran(track: Track, allowed: float = 1e9) -> Race[str]:
    found = track.run(allowed)
    assert isinstance(found, Race)
    return found


def test_the_fastest_wins() -> None:
    found = ran(Track(plain=1.0, slower=1.5, faster=0.5, fast=0.8))
    assert found.winner() == "faster"
    assert found.gain("faster", "plain").median == 2.0
    assert list(found.seconds) == ["plain", "slower", "faster", "fast"]
    assert found.told("fast", "slower") == "1.88x as fast (1.88 to 1.88)"


def noisy(first: float, *values: float) -> Iterable[float]:
    """Three turns before the race (the plain one has three, others four), then one value a round."""
    return chain(repeat(first, 4), values)


def test_what_is_faster_in_most_rounds_only_does_not_win() -> None:
    """Twelve rounds: the third smallest of the gains is the lower end of their 95 % interval."""
    doubtful = ran(Track(plain=1.0, other=noisy(0.8, *[0.8] * 9, 1.1, 1.1, 1.1)))
    assert doubtful.gain("other", "plain").median == 1.25
    assert doubtful.winner() == "plain"
    assert ran(Track(plain=1.0, other=noisy(0.8, *[0.8] * 10, 1.1, 1.1))).winner() == "other"


def test_as_fast_is_not_faster() -> None:
    assert ran(Track(plain=1.0, other=1.0)).winner() == "plain"


def test_a_later_one_must_beat_the_best_so_far_and_not_only_the_first() -> None:
    assert ran(Track(plain=1.0, good=0.5, both=noisy(0.49, *[0.49, 0.51] * 6))).winner() == "good"
    assert ran(Track(plain=1.0, good=0.5, both=0.49)).winner() == "both"


def test_turns_alternate_so_that_a_machine_that_slows_down_favours_nobody() -> None:
    track = Track(first=1.0, second=1.0, third=1.0)
    ran(track)
    rounds = track.order[-3 * ROUNDS :]
    assert rounds[:6] == ["first", "second", "third", "third", "second", "first"]
    assert rounds == rounds[:6] * (ROUNDS // 2)

    # Everything takes 5 % longer from turn to turn.
    slowing = Track(first=1.0, second=1.0)
    make = slowing.make

    def slower(name: str) -> Steps:
        steps = make(name)
        return lambda count: steps(count) * 1.05 ** len(slowing.order)

    found = race(["first", "second"], slower, lambda step_seconds: 1e99, lambda: 0.0)
    assert isinstance(found, Race)
    assert not found.beats("first", "second")
    assert not found.beats("second", "first")


def test_a_hopeless_contender_is_not_raced() -> None:
    track = Track(plain=1.0, slow=2.5, emulated=100.0, good=0.9)
    found = ran(track)
    assert list(found.seconds) == ["plain", "good"]
    assert found.hopeless == {"slow": 2.5, "emulated": 100.0}
    assert track.taken["emulated"] == 2
    assert found.told("emulated", "plain") == "0.01x as fast at a first look"
    assert not found.beats("slow", "plain")
    assert found.winner() == "good"


def test_quick_steps_are_taken_many_at_a_time() -> None:
    found = ran(Track(plain=0.004, other=0.003))
    assert found.steps == 3
    assert found.seconds["plain"] == pytest.approx([0.004] * ROUNDS)


def test_too_little_time_is_told_after_some_steps_of_the_first() -> None:
    track = Track(plain=1.0, other=0.5)
    assert track.run(17.9) == 1.0  # (6 rounds + 3 to warm up) of 2 contenders would take 18
    assert track.taken == {"plain": 4, "other": 0}
    assert isinstance(Track(plain=1.0, other=0.5).run(18.1), Race)


def test_the_allowance_is_asked_for_with_the_pace_of_the_first() -> None:
    asked: list[float] = []
    Track(plain=0.25, other=1.0).run(allowance=lambda step_seconds: asked.append(step_seconds) or 1e9)
    assert asked == [0.25]


def test_a_race_ends_when_its_time_is_over_but_not_before_it_can_tell() -> None:
    assert len(ran(Track(plain=1.0, other=1.0), 18.1).seconds["plain"]) == LEAST_ROUNDS
    assert len(ran(Track(plain=1.0, other=1.0), 27.5).seconds["plain"]) == LEAST_ROUNDS + 4
    assert len(ran(Track(plain=1.0, other=1.0), 100.0).seconds["plain"]) == ROUNDS
