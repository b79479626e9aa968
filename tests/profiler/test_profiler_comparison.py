from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_examples import a_measurement, an_entry, an_environment, elsewhere

from vnas.errors import UsageError
from vnas.profiler.blocks import Block
from vnas.profiler.comparison import Comparison, compare, comparison_line, judge, pair, processes
from vnas.profiler.merging import ENOUGH_OF_ONE
from vnas.profiler.results import Entry


def around(median: float, count: int = 3) -> list[list[float]]:
    """Processes whose medians differ by a tenth of a percent."""
    return [
        [median * (1.0 + 0.001 * (number % 3 - 1)) * (1.0 + 1e-6 * i) for i in range(-5, 6)] for number in range(count)
    ]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.995, 1.005), "same"),
        ((1.001, 1.009), "same"),
        ((0.99, 1.01), "same"),
        ((0.95, 0.98), "faster"),
        ((0.95, 0.995), "faster"),
        ((1.02, 1.05), "slower"),
        ((1.001, 1.05), "slower"),
        ((0.95, 1.005), "undecided"),
        ((0.98, 1.02), "undecided"),
        ((0.5, 1.0), "undecided"),
        ((1.0, 1.5), "undecided"),
    ],
)
def test_what_an_interval_says_at_a_tolerance_of_one_percent(interval: tuple[float, float], verdict: str) -> None:
    assert judge(interval, 0.01) == verdict


@pytest.mark.parametrize(
    ("now", "verdict"), [(10.0, "same"), (10.5, "slower"), (9.5, "faster"), (10.001, "same"), (10.1, "undecided")]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_noise_each_verdict_is_that_of_the_medians(now: float, verdict: str, count: int) -> None:
    found = compare(an_entry([[10.0] * 9] * count), an_entry([[now] * 9] * count))
    if verdict == "undecided":  # exactly the tolerance: rounding decides between same and slower
        assert found.verdict in ("same", "slower")
        return
    assert found.verdict == verdict
    assert found.ratio_interval == pytest.approx((now / 10.0, now / 10.0))


def test_a_comparison_says_what_was_compared() -> None:
    found = compare(an_entry(around(10.0)), an_entry(around(10.5)))
    assert (found.net, found.form, found.batch, found.runtime, found.precision) == (
        "timm:resnet18", "eval", 1, "eager", "fp32",
    )  # fmt: skip
    assert (found.old_ms, found.new_ms, found.ratio) == pytest.approx((10.0, 10.5, 1.05))
    assert found.ratio_interval is not None
    assert found.ratio_interval[0] < 1.05 < found.ratio_interval[1]
    assert (found.level, found.verdict, found.notes) == (0.95, "slower", ())


def test_the_tolerance_and_the_level_are_the_callers() -> None:
    old, new = an_entry(around(10.0)), an_entry(around(10.5))
    assert compare(old, new, tolerance=0.1).verdict == "same"
    usual, sure = compare(old, new).ratio_interval, compare(old, new, level=0.999).ratio_interval
    assert usual is not None
    assert sure is not None
    assert sure[0] < usual[0] < usual[1] < sure[1]
    for wrong in ({"tolerance": -0.1}, {"tolerance": math.nan}, {"level": 1.0}, {"level": 0.0}):
        with pytest.raises(UsageError, match=r"tolerance .*, level .*; they must be"):
            compare(old, new, **wrong)


@pytest.mark.parametrize("which", ["old", "new"])
def test_an_invalid_measurement_is_undecided_and_says_why(which: str) -> None:
    entries = {"old": an_entry(around(10.0)), "new": an_entry(around(20.0))}
    invalid = a_measurement(around(10.0), valid=False, notes=("INVALID: too much was discarded",))
    entries[which] = dataclasses.replace(entries[which], measurement=invalid)
    found = compare(entries["old"], entries["new"])
    assert found.verdict == "undecided"
    assert found.notes[0] == f"the {which} measurement is not valid: too much was discarded"


def test_one_sample_is_undecided() -> None:
    found = compare(an_entry([[10.0]]), an_entry([[20.0]]))
    assert (found.verdict, found.ratio_interval) == ("undecided", None)
    assert "one sample says nothing of the noise" in found.notes[0]


def test_one_process_each_is_compared_with_a_warning() -> None:
    found = compare(an_entry(around(10.0, 1)), an_entry(around(20.0, 1)))
    assert found.verdict == "slower"
    (note,) = found.notes
    assert note.startswith("one process each: other fresh processes may differ by more")


def test_one_process_on_one_side_is_named() -> None:
    found = compare(an_entry(around(10.0, 3)), an_entry(around(10.0, 1)))
    assert found.notes[0].startswith("the new measurement is of one process: the spread between processes is taken")
    found = compare(an_entry(around(10.0, 1)), an_entry(around(10.0, 3)))
    assert found.notes[0].startswith("the old measurement is of one process")


def test_throttling_and_contention_are_said() -> None:
    found = compare(an_entry(around(10.0), throttled=True), an_entry(around(10.0), contention="yes"))
    assert found.notes == ("the old measurement was throttled", "the new measurement had contention")


def test_what_else_changed_is_said() -> None:
    old = an_entry(around(10.0))
    new = elsewhere(old, threads=1, torch="2.11.0", driver="580.1", date_utc="2026-01-01T00:00:00+00:00")
    new = dataclasses.replace(new, measurement=dataclasses.replace(new.measurement, timer="cuda events"))
    assert compare(old, new).notes == (
        "differs: timer replay -> cuda events",
        "differs: driver unknown -> 580.1",
        "differs: torch 2.9.0 -> 2.11.0",
        "differs: threads 2 -> 1",
    )


def test_another_version_of_a_package_is_said() -> None:
    old = elsewhere(an_entry(around(10.0)), packages={"onnxruntime": "1.20", "timm": "1.0.9"})
    new = elsewhere(old, packages={"onnx": "1.19", "onnxruntime": "1.23", "timm": "1.0.9"})
    assert compare(old, new).notes == (
        "differs: onnx unknown -> 1.19",
        "differs: onnxruntime 1.20 -> 1.23",
    )


def test_another_kind_of_device_is_refused() -> None:
    old = an_entry(around(10.0))
    with pytest.raises(UsageError, match="measured on 'A CPU, 2 CPUs' before and on 'A Card' now"):
        compare(old, elsewhere(old, device_kind="A Card", device_type="cuda"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "other"}, "net timm:resnet18 and other"),
        ({"image_size": 32}, "image size 224 and 32"),
        ({"precision": "fp16", "runtime": "openvino"}, "runtime eager and openvino, precision fp32 and fp16"),
        ({"input_shapes": ((8, 3, 224, 224),)}, "input shapes"),
    ],
)
def test_what_is_not_the_same_thing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(an_entry(around(10.0)), an_entry(around(10.0), **changes))


def test_samples_put_aside_do_not_count() -> None:
    blocks = (Block(0, 0, 0.0, 5), Block(0, 0, 0.1, 2, 9.0, "slowed"), Block(0, 1, 0.2, 3), Block(1, 0, 0.0, 5))
    slowed = a_measurement([[1.0] * 8, [2.0] * 5], blocks=blocks, discarded_ms=(7.0, 7.0))
    assert processes(slowed) == [[[1.0] * 5, [1.0] * 3], [[2.0] * 5]]


def test_a_process_with_hardly_any_samples_left_does_not_count_where_others_have_enough() -> None:
    n = ENOUGH_OF_ONE
    assert processes(a_measurement([[1.0] * (n - 1), [2.0] * n, [3.0] * n])) == [[[2.0] * n], [[3.0] * n]]
    assert len(processes(a_measurement([[1.0] * (n - 1), [2.0] * n]))) == 2
    assert len(processes(a_measurement([[1.0], [2.0]]))) == 2


def test_without_blocks_all_samples_are_of_one_process() -> None:
    assert processes(a_measurement([[1.0, 2.0], [3.0]], blocks=())) == [[[1.0, 2.0, 3.0]]]


def test_an_interval_that_would_leave_out_the_ratio_of_the_medians_is_widened() -> None:
    # Most samples are of the one slow process: the median of all is its own, far from the mean of the processes'.
    found = compare(an_entry([[1.5] * 100] + [[1.0] * 5] * 6), an_entry([[1.0] * 5] * 7))
    assert found.ratio == found.new_ms / found.old_ms == pytest.approx(1 / 1.5)
    assert found.ratio_interval is not None
    assert found.ratio_interval[0] == found.ratio
    assert found.ratio_interval[1] > 1.0


values = st.lists(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=8), min_size=1, max_size=4)


@given(values, values)
@settings(deadline=None, max_examples=100)
def test_the_ratio_of_the_medians_lies_in_its_interval(old: list[list[float]], new: list[list[float]]) -> None:
    found = compare(an_entry(old), an_entry(new))
    if found.ratio_interval is not None:
        assert found.ratio_interval[0] <= found.ratio <= found.ratio_interval[1]


def test_pairs_are_what_was_measured_the_same_way() -> None:
    first, second, third = (an_entry(around(10.0), net=net) for net in ("a", "b", "c"))
    half = an_entry(around(10.0), net="a", precision="fp16")
    train = an_entry(around(10.0), net="a", form="unfused")
    batch = an_entry(around(10.0), net="b", input_shapes=((8, 3, 224, 224),))
    pairs, only_new = pair([first, second, half], [batch, third, half, first, train])
    assert pairs == [(half, half), (first, first)]
    assert only_new == [batch, third, train]


def test_what_was_measured_twice_is_paired_in_order() -> None:
    old = [an_entry(around(value)) for value in (1.0, 2.0, 3.0)]
    new = [an_entry(around(value)) for value in (4.0, 5.0)]
    assert pair(old, new) == ([(old[0], new[0]), (old[1], new[1])], [])
    assert pair(new, old) == ([(new[0], old[0]), (new[1], old[1])], [old[2]])
    assert pair([], []) == ([], [])


def line(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "net": "timm:resnet18", "form": "eval", "batch": 1, "runtime": "eager", "precision": "fp32", "old_ms": 12.3081,
        "new_ms": 12.5296, "ratio": 12.5296 / 12.3081, "ratio_interval": (1.0091, 1.0268), "level": 0.95,
        "verdict": "slower", "notes": (),
    }  # fmt: skip
    return comparison_line(Comparison(**{**fields, **changes}))


def test_a_line() -> None:
    assert line() == ("timm:resnet18 eval  eager fp32  batch 1  +1.8 % [+0.9 .. +2.7]  12.31 -> 12.53 ms  slower")


def test_a_line_of_what_hardly_changed_shows_more_digits() -> None:
    shown = line(new_ms=12.3093, ratio=12.3093 / 12.3081, ratio_interval=(0.9999, 1.0003), verdict="same")
    assert shown.endswith("+0.010 % [-0.010 .. +0.030]  12.3081 -> 12.3093 ms  same")


def test_a_line_without_an_interval() -> None:
    shown = line(ratio_interval=None, precision=None, batch=None, verdict="undecided")
    assert shown.startswith("timm:resnet18 eval  eager precision unknown  batch unknown  +1.8 % [unknown]")
    assert shown.endswith("12.31 -> 12.53 ms  undecided")


def test_a_line_of_microseconds_shows_them() -> None:
    assert "0.0200 -> 0.0210 ms" in line(old_ms=0.02, new_ms=0.021, ratio=1.05, ratio_interval=(1.02, 1.08))
    assert "0.0200 -> 0.0210 ms" in line(old_ms=0.02, new_ms=0.021, ratio=1.05, ratio_interval=(0.5, 3.0))


def test_the_date_is_no_difference() -> None:
    old = an_entry(around(10.0))
    assert isinstance(old, Entry)
    assert compare(old, elsewhere(old, date_utc="2026-01-01T00:00:00+00:00")).notes == ()
    assert an_environment().date_utc != "2026-01-01T00:00:00+00:00"
