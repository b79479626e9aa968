"""What was seen of a GPU while it was measured, and what that says about the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Contention = Literal["yes", "no", "unknown"]

REASONS = {
    0x1: "idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
}
"""Bits of the clocks' event reasons (nvml.h, nvmlClocksEventReasons)."""

THROTTLING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"})
"""Reasons that make a sample worthless. ``sw_power_cap`` is routine on a loaded data-centre card: noted only."""


@dataclass(frozen=True)
class Snapshot:
    """One look at a GPU. None is: not readable here, for the reason that ``notes`` gives.

    Attributes:
        name: of the GPU.
        uuid: as NVML gives it, ``GPU-...`` or ``MIG-...``.
        driver: version of the driver.
        cuda_driver: CUDA version of the driver, as ``13.0``.
        sm_clock_mhz: clock of the multiprocessors.
        sm_clock_max_mhz: the highest that it can have.
        memory_clock_mhz: clock of the memory.
        memory_clock_max_mhz: the highest that it can have.
        temperature_c: of the GPU, in degrees Celsius.
        power_w: drawn now.
        power_limit_w: enforced limit.
        event_reasons: why the clocks are not higher, by name; empty is: no reason.
        throttled_ns: for how long thermal or board limits have held the clocks down, so far; the
            difference of two looks tells what happened between them.
        utilisation_percent: share of the last sampling period in which a kernel ran.
        memory_used_mib: of the whole device, by all processes.
        memory_total_mib: of the whole device.
        persistence: the driver stays loaded while nothing runs.
        mig: the device is split, or is a slice of one.
        ecc: memory errors are corrected.
        own_process_listed: this process is in the list of compute processes.
        other_processes: other compute processes for certain; None where the list hides some, or who is who.
        full: False for a glance while sampling, which leaves out what does not change.
        notes: one line for each reason why something could not be read.
    """

    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    event_reasons: tuple[str, ...] | None = None
    throttled_ns: int | None = None
    utilisation_percent: int | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    persistence: bool | None = None
    mig: bool | None = None
    ecc: bool | None = None
    own_process_listed: bool | None = None
    other_processes: int | None = None
    full: bool = True
    notes: tuple[str, ...] = ()


def throttled(snapshots: Sequence[Snapshot]) -> bool | None:
    """Whether any look saw the hardware slow down, or two that it had; False only if all could tell, else None."""
    if any(slowed_now(snapshot) for snapshot in snapshots):
        return True
    if any(slowed_between(before, after) for before, after in itertools.pairwise(snapshots)):
        return True
    return False if snapshots and all(snapshot.event_reasons is not None for snapshot in snapshots) else None


def slowed_now(snapshot: Snapshot) -> bool:
    """Whether this look sees the hardware slow down."""
    return bool(THROTTLING.intersection(snapshot.event_reasons or ()))


def slowed_between(before: Snapshot, after: Snapshot) -> bool:
    """Whether the hardware slowed down at any time from one look to the next."""
    if before.throttled_ns is None or after.throttled_ns is None:
        return False
    return after.throttled_ns > before.throttled_ns


def contention(snapshots: Sequence[Snapshot]) -> Contention:
    """``yes`` if any look saw another process; ``no`` only if every look could rule it out."""
    if any(snapshot.other_processes for snapshot in snapshots):
        return "yes"
    if snapshots and all(snapshot.other_processes == 0 for snapshot in snapshots):
        return "no"
    return "unknown"


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Names of the clocks' event reasons in a bit mask; a bit that nvml.h does not name is given in hexadecimal."""
    names = [name for bit, name in REASONS.items() if bits & bit]
    unknown = bits & ~sum(REASONS)
    return (*names, f"0x{unknown:x}") if unknown else tuple(names)
