"""The warnings that travel with a result: what was seen, and what to do about it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from vnas.profiler.blocks import ASIDE_FACTOR, Block
from vnas.profiler.cpu_load import cpu_contention
from vnas.profiler.phases import MAX_DISCARDED, Sampling, WarmUp, WarmUpRule
from vnas.profiler.telemetry import Snapshot, throttled

MANY_FAULTS = 100
"""A page fault cost about 2 us where it was measured: so many take a fifth of a millisecond or more."""

ENERGY_LEFT_OUT = "no energy: it was not measured (energy_seconds = 0)"

ABOUT_THE_SAMPLES = (
    *("noise target missed", "the machine was slowed", "the samples depend", "one process", "too few samples"),
    "launch-bound",
)
"""How notes begin that are said anew of the samples of several processes together."""


def warmup_notes(warm: WarmUp, rule: WarmUpRule) -> Iterator[str]:
    """Said of a device that was still changing when the samples began."""
    if not warm.steady:
        yield (
            f"not steady after {warm.iterations} warm-up calls ({warm.seconds:.2g} s): successive windows differ by "
            f"more than {rule.agreement:.0%}; raise max_warmup_seconds = {rule.max_seconds:g}"
        )


def discard_notes(sampling: Sampling) -> Iterator[str]:
    """Said of samples that were put aside, or would have been had there been others."""
    if not sampling.valid:
        yield (
            f"INVALID: the hardware was slowed down for more than {MAX_DISCARDED:.0%} of the samples; let the device "
            "cool, or raise its power and cooling limits, and measure again"
        )
    yield from slowed_notes(sampling.blocks, sampling.discarded_ms, sampling.disturbed)


def slowed_notes(blocks: Sequence[Block], discarded_ms: Sequence[float], disturbed: bool) -> Iterator[str]:
    """What the machine's other state was like."""
    slowed = sum(block.count for block in blocks if block.discarded == "slowed")
    if slowed:
        share = slowed / sum(block.count for block in blocks)
        yield (
            f"the machine was slowed for {share:.0%} of the samples (its threads handed work over more than "
            f"{ASIDE_FACTOR - 1:.0%} slower than at its quietest); they are put aside, their median is "
            f"{statistics.median(discarded_ms):.4g} ms"
        )
    if disturbed:
        yield "the machine was slowed most of the time; measure again when it is quieter"


def fault_notes(page_faults: float | None) -> Iterator[str]:
    """Said where the allocator gives memory back and takes it again at every call."""
    if page_faults is not None and page_faults >= MANY_FAULTS:
        yield (
            f"{page_faults:.0f} page faults a call: the allocator returns memory to the system and takes it again; "
            "MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ make it keep it"
        )


def contention_notes(snapshots: Sequence[Snapshot], other_cpus: float | None) -> Iterator[str]:
    """Said where other processes were on the device."""
    others = max((snapshot.other_processes or 0 for snapshot in snapshots), default=0)
    if others:
        yield f"contention: up to {others} other compute processes were on the GPU; end them and measure again"
    if cpu_contention(other_cpus) == "yes":
        yield f"contention: other processes kept {other_cpus:.2g} CPUs busy; measure again when they have ended"


def launch_notes(bound: bool | None, median_ms: float, enqueue_ms: Sequence[float]) -> Iterator[str]:
    """Said of a call that is the host's time rather than the GPU's."""
    if bound:
        yield (
            f"launch-bound: the host takes {statistics.median(enqueue_ms):.4g} ms to launch a call of {median_ms:.4g} "
            "ms, so that the number is Python's and the driver's; graph_ms, where there is one, is the GPU's alone"
        )


def unseen_notes(median_ms: float, host_ms: Sequence[float], enqueue_ms: Sequence[float]) -> Iterator[str]:
    """Said of a call that does work beside the stream on which the events lie."""
    enqueue = f" and {statistics.median(enqueue_ms):.4g} ms to enqueue it" if enqueue_ms else ""
    yield (
        f"INVALID: the call does work that the events on torch's current stream do not see: {median_ms:.4g} ms between "
        f"them{enqueue}, but {statistics.median(host_ms):.4g} ms end to end (host_ms). Let the current stream wait for "
        "the others at the end of the call (torch.cuda.current_stream().wait_stream(other)), or measure it in a "
        "runtime that is timed end to end"
    )


def later_notes(snapshots: Sequence[Snapshot], while_sampling: int) -> Iterator[str]:
    """Said of what the looks after the samples saw, where those until then did not.

    Args:
        snapshots: all looks.
        while_sampling: how many of them came until the last sample.
    """
    before, later = snapshots[:while_sampling], snapshots[max(while_sampling - 1, 0) :]
    others = max((snapshot.other_processes or 0 for snapshot in later), default=0)
    if others and not any(snapshot.other_processes for snapshot in before):
        yield (
            f"contention: up to {others} other compute processes came to the GPU after the samples, while the host, "
            "enqueue and graph times or the energy were taken; end them and measure again"
        )
    if throttled(later) and not throttled(before):
        reasons = ", ".join(sorted({reason for snapshot in later for reason in snapshot.event_reasons or ()}))
        yield (
            "throttled after the samples, while the host, enqueue and graph times or the energy were taken"
            f"{f': clocks event reasons {reasons}' if reasons else ''}; let the device cool and measure again"
        )


def shared_energy(looks: Sequence[Snapshot], other_cpus: float | None) -> str | None:
    """Why an energy counter's window says nothing of this process; None where nothing speaks against it.

    Args:
        looks: at the GPU, before and after the window.
        other_cpus: CPUs that others kept busy in the window; None where that is not known.
    """
    others = max((look.other_processes or 0 for look in looks), default=0)
    if others:
        return (
            f"no energy: up to {others} other compute processes were on the GPU in its window, and the counter does "
            "not tell them apart; end them and measure again"
        )
    if cpu_contention(other_cpus) == "yes":
        return (
            f"no energy: other processes kept {other_cpus:.2g} CPUs busy in its window, and the counter does not tell "
            "them apart; measure again when they have ended"
        )
    return None


def telemetry_notes(snapshots: Sequence[Snapshot], slowed: bool | None) -> Iterator[str]:
    """Why the clocks were not higher, and what could not be read.

    Args:
        snapshots: all looks.
        slowed: those until the last sample saw the hardware slow down.
    """
    seen = sorted({reason for snapshot in snapshots for reason in snapshot.event_reasons or ()})
    if slowed:
        yield f"throttled while sampling: clocks event reasons {', '.join(seen)}; let the device cool and measure again"
    elif "sw_power_cap" in seen:
        yield "the power limit held the clocks down at times (sw_power_cap)"
    yield from dict.fromkeys(note for snapshot in snapshots for note in snapshot.notes)
