"""The warnings that travel with a result: what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vnas.profiler.cpu_load import cpu_contention
from vnas.profiler.phases import WarmUp, WarmUpRule
from vnas.profiler.telemetry import Snapshot


def warmup_notes(warm: WarmUp, rule: WarmUpRule) -> Iterator[str]:
    """Said of a device that was still changing when the samples began."""
    if not warm.steady:
        yield (
            f"not steady after {warm.iterations} warm-up calls ({warm.seconds:.2g} s): successive windows differ by "
            f"more than {rule.agreement:.0%}; raise max_warmup_seconds = {rule.max_seconds:g}"
        )


def contention_notes(snapshots: Sequence[Snapshot], other_cpus: float | None) -> Iterator[str]:
    """Said where other processes were on the device."""
    others = max((snapshot.other_processes or 0 for snapshot in snapshots), default=0)
    if others:
        yield f"contention: up to {others} other compute processes were on the GPU; end them and measure again"
    if cpu_contention(other_cpus) == "yes":
        yield f"contention: other processes kept {other_cpus:.2g} CPUs busy; measure again when they have ended"


def telemetry_notes(snapshots: Sequence[Snapshot], slowed: bool | None) -> Iterator[str]:
    """Why the clocks were not higher, and what could not be read."""
    seen = sorted({reason for snapshot in snapshots for reason in snapshot.event_reasons or ()})
    if slowed:
        yield f"throttled while sampling: clocks event reasons {', '.join(seen)}; let the device cool and measure again"
    elif "sw_power_cap" in seen:
        yield "the power limit held the clocks down at times (sw_power_cap)"
    yield from dict.fromkeys(note for snapshot in snapshots for note in snapshot.notes)
