from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vnas.profiler import cpu_load
from vnas.profiler.cpu_load import CpuLoad, busy_seconds, cpu_contention
from vnas.profiler.notes import contention_notes, telemetry_notes, warmup_notes
from vnas.profiler.phases import WarmUp, WarmUpRule
from vnas.profiler.telemetry import Contention, Snapshot, contention, decode_reasons, throttled


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, ()),
        (0x1, ("idle",)),
        (0x4 | 0x20, ("sw_power_cap", "sw_thermal_slowdown")),
        (0x8 | 0x40, ("hw_slowdown", "hw_thermal_slowdown")),
        (0x80, ("hw_power_brake",)),
        (0x2 | 0x10 | 0x100, ("applications_clocks", "sync_boost", "display_clocks")),
        (0x1 | 0x1000, ("idle", "0x1000")),
    ],
)
def test_event_reasons_have_the_names_of_nvml_h(bits: int, names: tuple[str, ...]) -> None:
    assert decode_reasons(bits) == names


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], None),
        ([None], None),
        ([()], False),
        ([("idle",), ("sw_power_cap",)], False),
        ([(), ("hw_slowdown",)], True),
        ([("sw_thermal_slowdown",), ()], True),
        ([(), None], None),  # what could not be seen may have happened
        ([None, ("hw_power_brake",)], True),
    ],
)
def test_throttled(looks: list[tuple[str, ...] | None], expected: bool | None) -> None:
    assert throttled([Snapshot(event_reasons=reasons) for reasons in looks]) is expected


@pytest.mark.parametrize(
    ("looks", "expected"),
    [([], "unknown"), ([0, 0], "no"), ([0, None], "unknown"), ([None], "unknown"), ([0, 2], "yes"), ([None, 1], "yes")],
)
def test_contention(looks: list[int | None], expected: Contention) -> None:
    assert contention([Snapshot(other_processes=others) for others in looks]) == expected


# proc(5): user nice system idle iowait irq softirq steal guest guest_nice, in ticks.
STAT = "cpu  100 20 30 9000 400 5 6 7 50 0\ncpu0 50 10 15 4500 200 2 3 3 25 0\nbtime 1\n"


def test_busy_time_is_all_but_idle_and_waiting() -> None:
    assert busy_seconds(STAT, 100) == pytest.approx(1.68)


@pytest.mark.parametrize("text", ["", "intr 1 2 3", "cpu 1 2 3", "cpu a b c d e f g h i"])
def test_a_file_of_another_form_is_unknown(text: str) -> None:
    assert busy_seconds(text, 100) is None


def other_cpus(busy: list[float | None], own: list[float], clock: list[float]) -> float | None:
    readings = iter(busy), iter(own), iter(clock)
    load = CpuLoad(lambda: next(readings[0]), lambda: next(readings[1]), lambda: next(readings[2]))
    return load.other_cpus()


def test_load_of_others_is_the_machines_less_ones_own() -> None:
    # In 2 s the machine worked 5 s, this process 4 s of them: others kept half a CPU busy.
    assert other_cpus([10.0, 15.0], [1.0, 5.0], [0.0, 2.0]) == pytest.approx(0.5)
    assert other_cpus([10.0, 13.99], [1.0, 5.0], [0.0, 2.0]) == 0.0


def test_load_that_cannot_be_told_is_unknown() -> None:
    assert other_cpus([None, None], [1.0, 5.0], [0.0, 2.0]) is None
    assert other_cpus([10.0, 15.0], [1.0, 1.1], [0.0, 0.1]) is None
    assert other_cpus([0.0, 0.0], [1.0, 5.0], [0.0, 2.0]) is None


def test_load_of_the_real_machine_needs_time_to_pass() -> None:
    assert CpuLoad(own=lambda: 0.0, clock=lambda: 0.0).other_cpus() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/stat")
def test_load_is_read_from_the_real_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readings of the kernel's own file, a minute apart on this clock, in which others work for 30 s."""
    text = Path("/proc/stat").read_text(encoding="ascii")
    name, user, *rest = text.partition("\n")[0].split()
    later = " ".join([name, str(int(user) + 30 * os.sysconf("SC_CLK_TCK")), *rest]) + "\n"
    texts, now = iter([text, later]), iter([0.0, 60.0])
    monkeypatch.setattr(cpu_load.Path, "read_text", lambda path, encoding: next(texts))
    assert CpuLoad(own=lambda: 0.0, clock=lambda: next(now)).other_cpus() == pytest.approx(0.5)


@pytest.mark.parametrize(("load", "expected"), [(None, "unknown"), (0.0, "no"), (0.09, "no"), (0.1, "yes")])
def test_contention_of_a_cpu(load: float | None, expected: Contention) -> None:
    assert cpu_contention(load) == expected


def test_notes_say_what_was_seen_and_what_to_do() -> None:
    (note,) = contention_notes([], 0.83)
    assert note == "contention: other processes kept 0.83 CPUs busy; measure again when they have ended"
    assert list(contention_notes([Snapshot(other_processes=0)], 0.01)) == []
    (note,) = warmup_notes(WarmUp(12, 3.0, steady=False), WarmUpRule())
    assert note.startswith("not steady after 12 warm-up calls (3 s)")
    assert list(warmup_notes(WarmUp(12, 1.0, steady=True), WarmUpRule())) == []
    twice = [Snapshot(notes=("ecc: NVML says Not Supported",)), Snapshot(notes=("ecc: NVML says Not Supported",))]
    assert list(telemetry_notes(twice, None)) == ["ecc: NVML says Not Supported"]


@pytest.mark.parametrize(
    ("counted", "expected"), [([5, 5], False), ([5, 6], True), ([5, None, 6], False), ([None, None], False)]
)
def test_throttling_between_looks_is_seen_by_the_counter(counted: list[int | None], expected: bool) -> None:
    assert throttled([Snapshot(event_reasons=(), throttled_ns=ns) for ns in counted]) is expected
