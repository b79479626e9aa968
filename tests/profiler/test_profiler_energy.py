"""Energy on a simulated device whose powers are known, so that every interval can be held against the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_energy import SimulatedCounter, SimulatedDevice

from vnas.errors import UsageError
from vnas.profiler.energy import Energy, IdlePower, energy_of_window, idle_power, measure_energy
from vnas.profiler.energy_readings import Reading, busy_readings


def measured(
    device: SimulatedDevice,
    window_seconds: float = 5.0,
    changes: dict[float, float | None] | None = None,
) -> Energy | str:
    counter = SimulatedCounter(device, "nvml" if device.asynchronous else "rapl", changes)
    return measure_energy(
        device.call,
        device.finish,
        counter,  # type: ignore[arg-type]
        window_seconds=window_seconds,
        clock=device.clock,
        sleep=device.sleep,
    )


def covers(interval: tuple[float, float] | None, truth: float) -> bool:
    assert interval is not None
    slack = 1e-9 * abs(truth)
    return interval[0] - slack <= truth <= interval[1] + slack


powers = st.floats(1.0, 400.0)
phases = st.floats(0.0, 0.999)
windows = st.floats(1.0, 10.0)


@given(idle_w=powers, more_w=powers, phase=phases, window=windows, call=st.sampled_from([3e-4, 1e-3, 7e-3, 0.04, 0.3]))
@settings(deadline=None, max_examples=60)
def test_a_gpus_intervals_hold_the_truth(
    idle_w: float, more_w: float, phase: float, window: float, call: float
) -> None:
    device = SimulatedDevice(idle_w, idle_w + more_w, call, phase=phase)
    found = measured(device, window)
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 1e3 * device.busy_w * call)
    assert covers(found.net_interval_mj, 1e3 * more_w * call)
    assert covers(found.gross_interval_mj, found.gross_mj)
    assert found.window_seconds >= window
    assert found.calls * call == pytest.approx(found.window_seconds)  # back to back, and counted to the last one
    assert found.refresh_ms == pytest.approx(100, abs=1e3 * max(2 * call, 0.011))
    low, high = found.gross_interval_mj
    assert (high - low) / found.gross_mj < 5 * max(call, 0.011) / window
    assert device.now >= device.busy[-1][1]  # nothing is left running


@given(idle_w=powers, more_w=powers, phase=phases, window=windows, call=st.sampled_from([1e-3, 7e-3, 0.04, 0.3]))
@settings(deadline=None, max_examples=40)
def test_a_cpus_intervals_hold_the_truth(
    idle_w: float, more_w: float, phase: float, window: float, call: float
) -> None:
    device = SimulatedDevice(
        idle_w, idle_w + more_w, call, refresh_seconds=1e-3, phase=phase, read_seconds=0.0, asynchronous=False
    )
    found = measured(device, window)
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 1e3 * device.busy_w * call)
    assert covers(found.net_interval_mj, 1e3 * more_w * call)
    assert found.calls * call == pytest.approx(found.window_seconds)
    low, high = found.gross_interval_mj
    assert (high - low) / found.gross_mj < 0.05 / window  # a millisecond between steps, however long a call is


def test_the_host_reads_seldom_and_the_queue_stays_short() -> None:
    device = SimulatedDevice(call_seconds=2e-5)  # five calls for as long as a reading takes
    assert isinstance(measured(device), Energy)
    assert device.reads < 1.1 * device.now / 0.01
    assert device.longest_queue < 0.03
    assert device.busy[-1][1] - device.busy[-1][0] > 5.3  # the whole window without a pause


@pytest.mark.parametrize("read_seconds", [1e-4, 5e-3])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_calls_are_counted_at_both_ends_of_a_reading(read_seconds: float, asynchronous: bool) -> None:
    device = SimulatedDevice(call_seconds=1e-3, read_seconds=read_seconds, asynchronous=asynchronous)
    counter = SimulatedCounter(device, "nvml" if asynchronous else "rapl")
    for reading in itertools.islice(busy_readings(device.call, device.finish, counter, device.clock), 50):  # type: ignore[arg-type]
        assert isinstance(reading, Reading)
        over_at_the_end = sum(min(end, reading.end) - start for start, end in device.busy) / device.call_seconds
        assert over_at_the_end <= reading.begun + 1e-6
        assert reading.begun == device.calls
        assert reading.begun - reading.done == pytest.approx(
            (device.busy[-1][1] - reading.begin) / device.call_seconds if asynchronous else 0, abs=1e-6
        )


def test_the_first_moments_under_load_do_not_count() -> None:
    class Surging(SimulatedDevice):
        def energy_mj(self, now: float) -> float:
            surged = min(max(now - self.busy[1][0], 0.0), 0.4) if self.calls else 0.0
            return super().energy_mj(now) + 1e6 * surged

    found = measured(Surging(), 1.0)
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 300.0)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("call", [0.9, 1.6, 4.0])
def test_long_calls_make_the_interval_wide_not_wrong(call: float, asynchronous: bool) -> None:
    found = measured(SimulatedDevice(call_seconds=call, asynchronous=asynchronous), 1.0)
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 3e5 * call)
    assert covers(found.net_interval_mj, 2.3e5 * call)


def readings(*rows: tuple[float, float, int, int, float]) -> Sequence[Reading]:
    return [Reading(*row) for row in rows]


def test_the_window_by_hand() -> None:
    # Steps between 0.99 and 1.01 s and between 2.99 and 3.01 s; 100 calls a second.
    rows = readings(
        (0.99, 1.00, 99, 100, 7.0),
        (1.00, 1.01, 100, 101, 500.0),
        (2.00, 2.01, 200, 201, 900.0),
        (2.99, 3.00, 299, 300, 900.0),
        (3.00, 3.01, 300, 301, 1500.0),
    )
    found = energy_of_window(rows, "nvml", IdlePower(0.2, 0.1, 0.3, 0.1))
    assert isinstance(found, Energy)
    # 1000 mJ by 200 calls, more than 299 - 101 and fewer than 301 - 99 of them in the window; idle 2 mJ in 10 ms
    assert (found.calls, found.window_seconds, found.gross_mj, found.idle_w) == (200, 2.0, 5.0, 0.2)
    assert found.gross_interval_mj == pytest.approx((1000 / 202, 1000 / 198))
    assert found.net_mj == pytest.approx(3.0)
    assert found.net_interval_mj == pytest.approx((1000 / 202 - 3.0, 1000 / 198 - 1.0))
    assert found.refresh_ms == pytest.approx(1000)
    # steps at most 5 ms apart: half a call before the reading that saw them
    finer = energy_of_window(rows, "rapl", IdlePower(0.2, 0.1, 0.3, 0.005))
    assert isinstance(finer, Energy)
    assert finer.gross_interval_mj == pytest.approx((1000 / 201.5, 1000 / 198.5))
    without = energy_of_window(rows, "nvml", None)
    assert isinstance(without, Energy)
    assert (without.net_mj, without.net_interval_mj, without.idle_w) == (None, None, None)
    assert without.gross_interval_mj == found.gross_interval_mj


def test_too_few_calls_are_no_guess() -> None:
    rows = readings((0.0, 0.1, 1, 2, 0.0), (1.0, 1.1, 2, 3, 1.0), (2.1, 2.2, 3, 4, 1.0), (3.2, 3.3, 4, 5, 2.0))
    found = energy_of_window(rows, "nvml", None)
    assert found == ("no energy: the 2 calls in 2.2 s are too few for the steps of the counter; give a longer window")


def test_idle_power_by_hand() -> None:
    found = idle_power(
        readings(
            (0.9, 0.95, 0, 0, 0.0),
            (1.0, 1.05, 0, 0, 1000.0),
            (1.5, 1.55, 0, 0, 1500.0),
            (1.9, 1.95, 0, 0, 1500.0),
            (2.0, 2.05, 0, 0, 2000.0),
        )
    )
    # 1 J between two steps: from (0.9, 1.05] to (1.9, 2.05]
    assert (found.watts, found.low, found.high) == pytest.approx((1.0, 1 / 1.15, 1 / 0.85))
    assert found.step_seconds == pytest.approx(0.5 + 0.55)


@pytest.mark.parametrize(
    ("energy_j", "low_w", "high_w", "seconds"),
    [
        (lambda t: 100 * t, 99, 101, 2.5),
        (lambda t: 100 * t + 200 * (1 - math.exp(-t)), 100, 106, 6),  # falls from 300 W, by a factor e each second
        (lambda t: 100 * t + 10 * t**2, 125, 145, 2.5),  # rises
    ],
)
def test_the_idle_device_is_waited_for(
    energy_j: Callable[[float], float], low_w: float, high_w: float, seconds: float
) -> None:
    found, begun = cooling(energy_j)
    assert found.idle_w is not None
    assert low_w <= found.idle_w <= high_w
    assert begun <= seconds
    assert found.net_interval_mj is not None


def test_a_device_that_does_not_settle_has_no_idle_power() -> None:
    found, begun = cooling(lambda t: 1500 * (1 - math.exp(-t / 5)))
    assert (found.idle_w, found.net_mj, found.net_interval_mj) == (None, None, None)
    assert begun <= 10


def cooling(energy_j: Callable[[float], float]) -> tuple[Energy, float]:
    """The energy found on a device that took so much until the first call; and when that was."""

    class Cooling(SimulatedDevice):
        def energy_mj(self, now: float) -> float:
            begun = self.busy[1][0] if self.calls else now
            return 1e3 * energy_j(min(now, begun)) + 1e3 * self.busy_w * (now - min(now, begun))

    device = Cooling()
    found = measured(device)
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 300.0)
    return found, device.busy[1][0]


def test_a_counter_that_stands_still() -> None:
    device = SimulatedDevice()
    assert measured(device, changes={0.0: 5.0}) == "no energy: the counter stood still for 3 s"
    assert device.now < 8


def test_a_counter_that_stands_still_in_the_middle() -> None:
    assert measured(SimulatedDevice(), changes={5.0: 1e6}) == "no energy: the counter stood still for 3 s"


def test_a_counter_that_moves_under_load_only_gives_gross_alone() -> None:
    found = measured(SimulatedDevice(idle_w=0.0))
    assert isinstance(found, Energy)
    assert covers(found.gross_interval_mj, 300.0)
    assert (found.idle_w, found.net_mj, found.net_interval_mj) == (None, None, None)


@pytest.mark.parametrize("when", [1.0, 5.0])
def test_a_counter_that_goes_backwards(when: float) -> None:
    assert measured(SimulatedDevice(), changes={when: 1.0}) == "no energy: the counter went backwards"


@pytest.mark.parametrize("when", [0.0, 1.0, 5.0])
def test_a_counter_that_vanishes(when: float) -> None:
    device = SimulatedDevice()
    assert measured(device, changes={when: None}) == "no energy: it has gone"
    assert device.now >= device.busy[-1][1]


def test_without_a_counter_nothing_is_called() -> None:
    device = SimulatedDevice()
    assert measure_energy(device.call, device.finish, "no energy: no counter") == "no energy: no counter"
    assert device.calls == 0


@pytest.mark.parametrize("seconds", [0.0, 0.99, -1.0, math.nan, math.inf])
def test_windows_under_a_second_are_refused(seconds: float) -> None:
    device = SimulatedDevice()
    with pytest.raises(UsageError, match=r"window_seconds = .*; it must be at least 1, better 5"):
        measured(device, seconds)
    with pytest.raises(UsageError, match=r"idle_seconds = .*; it must be at least 1"):
        measure_energy(device.call, device.finish, "none", idle_seconds=seconds)


def test_what_the_call_raises_comes_through() -> None:
    device = SimulatedDevice()

    def broken() -> None:
        raise ZeroDivisionError

    counter = SimulatedCounter(device, "nvml")
    with pytest.raises(ZeroDivisionError):
        measure_energy(broken, device.finish, counter, clock=device.clock, sleep=device.sleep)  # type: ignore[arg-type]
