from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnas.profiler.blocks import Block, by_block, disturbed, kept_count, sift, split
from vnas.profiler.environment import Environment
from vnas.profiler.measurement import Measurement
from vnas.profiler.merging import kept_rounds, merge, merge_all
from vnas.profiler.notes import ENERGY_LEFT_OUT
from vnas.profiler.statistics import between_processes

ENVIRONMENT = Environment.__new__(Environment)  # merging passes it on unread


def part(
    samples: Sequence[float],
    *,
    slowed: Sequence[float] = (),
    quiet_us: float | None = None,
    slow_pace_us: float = 8.0,
    **fields: object,
) -> Measurement:
    """One process: a round of undisturbed samples, then one of slowed ones."""
    blocks = [Block(0, 0, 0.0, len(samples), quiet_us)]
    if slowed:
        blocks.append(Block(0, 1, 0.5, len(slowed), slow_pace_us, "slowed"))
    made = Measurement(
        median_ms=statistics.median(samples),
        interval_ms=(min(samples), max(samples)),
        interval_level=0.95,
        interval_method="one process",
        samples_ms=tuple(samples),
        stop_reason="target met",
        noise_ok=True,
        target_relative=0.01,
        warmup_iterations=3,
        warmup_seconds=0.5,
        device="cpu",
        runtime="eager",
        timer="perf_counter_ns",
        precision="fp32",
        layout="contiguous",
        input_shapes=((1, 3, 8, 8),),
        input_dtypes=("float32",),
        environment=ENVIRONMENT,
        contention="no",
        quiet_us=quiet_us,
        blocks=tuple(blocks),
        discarded_ms=tuple(slowed),
        notes=("one process: a fresh process may differ by more than the interval says", "a note to keep"),
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def steady(median: float, n: int = 21) -> list[float]:
    """Samples that hardly differ, about a median."""
    return [median * (1.0 + 1e-6 * (i - n // 2)) for i in range(n)]


def test_the_interval_of_three_processes_of_one_round_is_that_of_students_t() -> None:
    medians = [10.0, 10.2, 10.1]
    merged = merge([part(steady(median)) for median in medians])
    # t with 2 degrees of freedom at .975 is 4.302653 (any table).
    half = 4.302653 * statistics.stdev(map(math.log, medians)) * math.sqrt(2 / 3)
    assert merged.median_ms == pytest.approx(10.1)
    assert merged.interval_ms[0] == pytest.approx(10.1 * math.exp(-half))
    assert merged.interval_ms[1] == pytest.approx(10.1 * math.exp(half))
    assert (merged.processes, merged.interval_method) == (3, "between processes")
    assert not merged.noise_ok
    assert merged.notes[0].startswith("noise target missed: the interval is ")
    assert merged.notes[0].endswith("the processes' medians are 10, 10.2, 10.1 ms")
    assert merged.notes[1:] == ("a note to keep",)


def test_processes_that_agree_by_luck_are_no_surer_than_their_samples() -> None:
    wide = [9.0 + 0.1 * i for i in range(21)]
    merged = merge([part(wide), part(wide), part(wide)])
    # Ranks 24 and 40 of all 63 hold the median in 95.6 % of cases: 9.7 .. 10.3.
    assert merged.interval_ms == pytest.approx((10.0 * math.exp(-0.03), 10.0 * math.exp(0.03)))


def test_where_processes_differ_far_more_than_their_rounds_they_alone_count() -> None:
    medians = [10.0, 10.2, 10.1]
    rounds = [[median * (1.0 + 2e-4 * step) for step in (-1, 0, 1, 0)] for median in medians]
    half = 4.302653 * statistics.stdev(map(math.log, medians)) * math.sqrt(2 / 3)
    # The prior says that they differ by more than a hundred times their rounds in 10 % of cases only.
    assert 0.6 * half < between_processes(rounds) < half


def test_rounds_that_differ_as_much_as_processes_do_narrow_the_interval() -> None:
    medians = [10.0, 10.2, 10.1]
    rounds = [[median * (1.0 + 0.01 * step) for step in (-1, 0, 1, 0)] for median in medians]
    alone = between_processes([[median] for median in medians])
    assert between_processes(rounds) < 0.9 * alone


@pytest.mark.parametrize(("gamma", "rounds"), [(0.0, 4), (1.0, 4), (1.0, 2), (5.0, 3), (20.0, 4)])
def test_another_call_lies_in_the_interval_in_95_of_100_cases(gamma: float, rounds: int) -> None:
    rng = np.random.default_rng(1)
    held = 0
    runs = 500
    for _ in range(runs):
        ours, theirs = (
            0.02 * (gamma * rng.standard_normal((3, 1)) + rng.standard_normal((3, rounds))) for _ in range(2)
        )
        half = between_processes(np.exp(ours).tolist())
        held += abs(ours.mean() - theirs.mean()) <= half
    # Averaging over gamma is wary where processes do not differ, and a little bold where they alone do.
    assert 0.91 <= held / runs <= (1.0 if gamma < 1.0 else 0.995)


def test_identical_rounds_leave_nothing_open() -> None:
    assert between_processes([[5.0, 5.0], [5.0, 5.0]]) == 0.0


def test_one_process_is_returned_as_it_is() -> None:
    only = part(steady(5.0))
    assert merge([only]) is only


def test_a_process_that_never_saw_the_quiet_machine_learns_of_it_from_the_others() -> None:
    quiet = part(steady(10.0), quiet_us=5.0)
    again = part(steady(10.1), quiet_us=5.05)
    # To itself it looked undisturbed: all its readings were 8.
    blind = part(steady(15.0), quiet_us=8.0)
    merged = merge_all([[quiet, again, blind]])[0]
    assert merged.median_ms == pytest.approx(10.05, rel=1e-3)
    assert len(merged.samples_ms) == 42
    assert merged.discarded_ms == pytest.approx(steady(15.0))
    assert [block.discarded for block in merged.blocks] == [None, None, "slowed"]
    assert merged.quiet_us == 5.0
    assert "slowed for 33% of the samples" in merged.notes[1]
    assert "their median is 15 ms" in merged.notes[1]


def test_the_quiet_pace_is_that_of_all_nets_of_the_call() -> None:
    one = [part(steady(10.0), quiet_us=5.0), part(steady(10.0), quiet_us=5.0)]
    two = [part(steady(3.0, 41), slowed=steady(4.0), quiet_us=5.0), part(steady(4.0), quiet_us=8.0)]
    _, merged = merge_all([one, two])
    assert merged.median_ms == pytest.approx(3.0)
    assert len(merged.discarded_ms) == 42
    assert merged.notes[1].startswith("the machine was slowed for 51% of the samples")
    assert merged.contention == "yes"  # most of the time
    # What counts is of one process; that the other took 4 ms at its least slowed leaves that much open.
    assert merged.interval_ms[1] > 4.0


def test_samples_that_fill_up_are_said_to_be_disturbed() -> None:
    few = [part(steady(3.0, 5), slowed=steady(4.0), quiet_us=5.0), part(steady(4.2), quiet_us=9.0)]
    merged = merge(few, 5.0)
    # Five are quiet and twelve are wanted: the 21 at 8 us fill up, those at 9 do not count.
    assert len(merged.samples_ms) == 26
    assert merged.contention == "yes"
    assert any("slowed most of the time" in note for note in merged.notes)


def test_that_energy_was_left_out_is_said_only_where_all_left_it_out() -> None:
    left_out = part([2.0] * 20, notes=(ENERGY_LEFT_OUT,))
    assert merge([left_out, left_out]).notes.count(ENERGY_LEFT_OUT) == 1
    asked = part([2.0] * 20, notes=("no energy: none of that here",))
    notes = merge([asked, left_out]).notes
    assert "no energy: none of that here" in notes
    assert ENERGY_LEFT_OUT not in notes


def test_what_is_launch_bound_is_judged_and_said_anew() -> None:
    def launched(enqueue_ms: float) -> Measurement:
        notes = ("launch-bound: the host takes long",) if enqueue_ms > 1.6 else ()
        return part([2.0] * 20, enqueue_samples_ms=(enqueue_ms,) * 3, notes=notes, launch_bound=bool(notes))

    free = merge([launched(1.7), launched(1.5), launched(1.5)])
    assert (free.launch_bound, [note for note in free.notes if note.startswith("launch-bound")]) == (False, [])
    bound = merge([launched(1.5), launched(1.7), launched(1.7)])
    (note,) = [note for note in bound.notes if note.startswith("launch-bound")]
    assert bound.launch_bound is True
    assert note.startswith("launch-bound: the host takes 1.7 ms to launch a call of 2 ms")


def test_what_one_process_saw_counts_for_all() -> None:
    parts = [
        part(steady(10.0), throttled=False, contention="no", other_cpus=0.0, page_faults=1.0),
        part(steady(10.0), throttled=True, contention="yes", other_cpus=0.4, page_faults=9.0, valid=False),
        part(steady(10.0), throttled=None, contention="unknown", stop_reason="time limit"),
    ]
    merged = merge(parts)
    assert (merged.throttled, merged.contention, merged.other_cpus) == (True, "yes", 0.4)
    assert (merged.page_faults, merged.valid, merged.stop_reason) == (9.0, False, "time limit")
    assert (merged.warmup_iterations, merged.warmup_seconds) == (9, 1.5)


def test_launch_bound_is_judged_anew() -> None:
    parts = [
        part(steady(1.0), enqueue_samples_ms=(0.9,), enqueue_ms=0.9, launch_bound=True, host_samples_ms=(1.2,)),
        part(steady(1.0), enqueue_samples_ms=(0.5, 0.5), enqueue_ms=0.5, launch_bound=False, host_samples_ms=(1.0,)),
    ]
    merged = merge(parts)
    assert (merged.enqueue_ms, merged.launch_bound, merged.host_ms) == (0.5, False, 1.1)
    assert merged.graph_ms is None


def test_rounds_by_process() -> None:
    merged = merge([part(steady(1.0, 3), slowed=[2.0], quiet_us=5.0), part(steady(1.0, 5), quiet_us=5.0)])
    # 8 undisturbed samples are too few to put the slowed one aside.
    assert {number: [len(one) for one in rounds] for number, rounds in kept_rounds(merged).items()} == {
        0: [3, 1],
        1: [5],
    }


def test_filling_up_ends_with_the_block_that_is_enough() -> None:
    blocks = [Block(0, 0, 0.0, 4, pace) for pace in (5.0, 7.0, 8.0, 9.0)]
    for enough, kept in [(4, 1), (5, 2), (8, 2), (12, 3), (99, 4)]:
        assert [block.discarded for block in sift(blocks, 5.0, enough)] == [None] * kept + ["slowed"] * (4 - kept)


def test_what_lies_a_little_above_the_quiet_pace_is_put_aside_and_disturbs_nothing() -> None:
    blocks = [Block(0, 0, 0.0, 12, pace) for pace in (5.0, 5.39, 5.41, 5.74)]
    assert [block.discarded for block in sift(blocks, 5.0, 12)] == [None, None, "slowed", "slowed"]
    assert disturbed([Block(0, 0, 0.0, 4, pace) for pace in (5.0, 5.74)], 5.0) is False
    assert disturbed([Block(0, 0, 0.0, 4, pace) for pace in (5.0, 5.76)], 5.0) is True


def test_the_interval_also_looks_at_moments_a_little_above_the_quiet_pace() -> None:
    """Those of the third process, 10 % above, are put aside, and yet say how far processes lie apart."""
    merged = merge(
        [part(steady(3.0), quiet_us=5.0), part(steady(3.0), quiet_us=5.0), part(steady(3.3), quiet_us=5.5)], 5.0
    )
    assert merged.median_ms == pytest.approx(3.0, rel=1e-3)
    assert len(merged.discarded_ms) == len(steady(3.3))
    assert merged.interval_ms[1] > 3.3


BLOCKS = st.lists(
    st.builds(
        Block,
        process=st.just(0),
        round=st.just(0),
        start_seconds=st.just(0.0),
        count=st.integers(1, 4),
        pace_us=st.none() | st.floats(4.0, 10.0),
        discarded=st.sampled_from([None, "throttled", "slowed"]),
    ),
    max_size=12,
)


@given(BLOCKS, st.none() | st.floats(4.0, 6.0), st.integers(0, 30))
def test_sifting_marks_what_is_slow_or_nothing_and_loses_no_sample(
    blocks: list[Block], quiet_us: float | None, enough: int
) -> None:
    sifted = sift(blocks, quiet_us, enough)
    assert [dataclasses.replace(block, discarded=None) for block in sifted] == [
        dataclasses.replace(block, discarded=None) for block in blocks
    ]
    assert [block.discarded == "throttled" for block in sifted] == [block.discarded == "throttled" for block in blocks]
    slow = [block.discarded == "slowed" for block in sifted]
    if any(slow):
        assert quiet_us is not None
        assert kept_count(sifted) >= enough
        paces = [block.pace_us for block in sifted if block.discarded is None and block.pace_us is not None]
        limit = max([1.08 * quiet_us, *paces])
        for block, marked in zip(sifted, slow, strict=True):
            if block.discarded != "throttled":
                assert marked == (block.pace_us is not None and block.pace_us > limit)
    samples = [float(i) for i in range(sum(block.count for block in blocks))]
    kept, others = split(sifted, samples)
    assert sorted(kept + others) == samples
    rebuilt = [sample for _, taken in by_block(sifted, kept, others) for sample in taken]
    assert rebuilt == samples
