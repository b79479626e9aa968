from __future__ import annotations

import pytest
import torch

from vnas.profiler.looking import CpuLooks, GpuLooks
from vnas.profiler.pace import BURST, HandoffPace
from vnas.profiler.phases import Look
from vnas.profiler.telemetry import Snapshot


def ticking(*burst_us: float) -> HandoffPace:
    """A pace whose bursts take these times for each operation, three to a reading."""
    instants = [0]
    for us in burst_us:
        last = instants[-1]
        instants += [last, *(last + int(us * 1e3 * (count + 1)) for count in range(BURST))]
    later = iter(instants[1:])
    return HandoffPace(clock=lambda: next(later))


def test_a_reading_is_the_best_of_its_bursts() -> None:
    pace = ticking(9.0, 5.0, 7.0, 6.0, 6.0, 8.0)
    assert pace.quiet_us is None
    assert pace.read_us() == pytest.approx(5.0)
    assert pace.read_us() == pytest.approx(6.0)


def test_where_cpus_are_short_a_reading_ends_with_the_operation_that_shows_it() -> None:
    instants = iter([0, 5_000, 600_000])
    pace = HandoffPace(clock=lambda: next(instants))
    assert pace.read_us() == pytest.approx(300.0)
    assert list(instants) == []


def test_the_quiet_pace_is_the_second_lowest_reading() -> None:
    pace = ticking(*[7.0] * 3, *[4.0] * 3, *[5.0] * 3, *[9.0] * 3)
    seen = []
    for _ in range(4):
        pace.read_us()
        seen.append(pace.quiet_us)
    assert seen == pytest.approx([7.0, 7.0, 5.0, 5.0])


def test_a_pace_known_from_elsewhere_counts_at_once() -> None:
    pace = HandoffPace(known_quiet_us=1e-3)
    assert pace.quiet_us == 1e-3
    assert CpuLooks(pace).look().pace_us > 1e-3  # type: ignore[operator]
    assert CpuLooks(pace).quiet_us == 1e-3


def test_the_operation_is_shared_by_the_threads_that_are_set() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = HandoffPace()._values.numel()
        torch.set_num_threads(2)
        two = HandoffPace()._values.numel()
    finally:
        torch.set_num_threads(before)
    assert one > 32_768
    assert two > 2 * 32_768


def test_a_slowed_machine_is_waited_for_but_not_for_ever() -> None:
    """Readings of 9 us take .1 s each on this clock; the fifth is quiet."""

    class Slow:
        quiet_us = 5.0

        def __init__(self, *readings: float) -> None:
            self.readings = list(readings)
            self.now = 0.0

        def read_us(self) -> float:
            self.now += 0.1
            return self.readings.pop(0)

    pace = Slow(9.0, 9.0, 5.1, *[9.0] * 20)
    looks = CpuLooks(pace, patience_seconds=0.65, clock=lambda: pace.now)
    first = looks.look()
    assert (first.pace_us, first.away) == (5.1, True)
    assert first.waited_seconds == pytest.approx(0.2)
    second = looks.look()  # a quarter of a second at most between two blocks
    assert second.pace_us == 9.0
    assert 0.2 < second.waited_seconds <= 0.3 + 1e-9
    third = looks.look()  # and no more than the patience that was left: .15 s, two readings
    assert third.waited_seconds == pytest.approx(0.2)
    assert looks.look() == Look(pace_us=9.0)


class Watcher:
    def __init__(self, *looks: Snapshot) -> None:
        self._looks = iter(looks)

    def snapshot(self) -> Snapshot:
        return next(self._looks)

    glance = snapshot


CALM = Snapshot(event_reasons=())
HOT = Snapshot(event_reasons=("hw_thermal_slowdown",))


def test_a_hot_gpu_is_given_longer_and_longer_pauses() -> None:
    pauses: list[float] = []
    looks = GpuLooks(Watcher(HOT, HOT, HOT, *[HOT] * 5, CALM, HOT), pauses.append)
    for _ in range(8):
        assert looks.look() == Look(throttled=True, away=True)
    assert pauses[:3] == pytest.approx([0.05, 0.075, 0.1125])
    assert pauses[-1] == 0.5
    assert looks.look() == Look(throttled=False, away=True)
    looks.look()
    assert pauses[-1] == 0.05


def test_what_happened_between_two_looks_is_seen_by_the_counter() -> None:
    calm = [Snapshot(event_reasons=(), throttled_ns=ns) for ns in (100, 100, 250, 250)]
    looks = GpuLooks(Watcher(*calm), lambda seconds: None)
    looks.full()
    assert [looks.look().throttled for _ in range(3)] == [False, True, False]
