"""One measurement of several fresh processes out of one of each. Pure."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from vnas.profiler.blocks import SLOWED_FACTOR, Block, by_block, sift, split
from vnas.profiler.measurement import Measurement
from vnas.profiler.notes import ABOUT_THE_SAMPLES, slowed_notes
from vnas.profiler.phases import StopReason
from vnas.profiler.protocol import LAUNCH_BOUND_SHARE
from vnas.profiler.statistics import between_processes, dependence, median_interval
from vnas.profiler.telemetry import Contention

LEVEL = 0.95

ENOUGH = 15
"""Undisturbed samples of all processes together from which the others are put aside."""

ENOUGH_OF_ONE = 3
"""Of one process, for its median to count."""


def merge_all(parts: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """One measurement for each net of a call.

    Args:
        parts: for each net, its measurements of one process each, at least one.
    """
    paces = [part.quiet_us for of_net in parts for part in of_net if part.quiet_us is not None]
    quiet_us = min(paces) if paces else None
    return [merge(of_net, quiet_us) for of_net in parts]


def merge(parts: Sequence[Measurement], quiet_us: float | None = None) -> Measurement:
    """One measurement of several processes. Its interval is where the median of another such call would lie.

    Args:
        parts: of one net, each of one process; at least one, which is returned as it is.
        quiet_us: pace of the undisturbed machine, as far as any of them or their neighbours saw it.
    """
    if len(parts) == 1:
        return parts[0]
    blocks, samples = _joined(parts)
    sifted = sift(blocks, quiet_us, ENOUGH)
    of_processes = _of_processes(sifted, samples, ENOUGH_OF_ONE)
    if len(of_processes) < 2:
        sifted = [dataclasses.replace(block, discarded=None) for block in blocks]
        of_processes = _of_processes(sifted, samples, 1)
    kept, others = split(sifted, samples)
    median = statistics.median(kept)
    half = _half_width(of_processes)
    interval = (median * math.exp(-half), median * math.exp(half))
    first = parts[0]
    noise_ok = (interval[1] - interval[0]) / median <= first.target_relative
    always_slowed = _varied(blocks, quiet_us) and not any(block.discarded == "slowed" for block in sifted)
    graph = _all(part.graph_samples_ms for part in parts)
    host = _all(part.host_samples_ms for part in parts)
    enqueue = _all(part.enqueue_samples_ms for part in parts)
    return dataclasses.replace(
        first,
        median_ms=median,
        interval_ms=interval,
        interval_level=LEVEL,
        interval_method="between processes",
        samples_ms=kept,
        stop_reason=_worst(part.stop_reason for part in parts),
        noise_ok=noise_ok,
        warmup_iterations=sum(part.warmup_iterations for part in parts),
        warmup_seconds=math.fsum(part.warmup_seconds for part in parts),
        launch_bound=statistics.median(enqueue) > LAUNCH_BOUND_SHARE * median if enqueue else None,
        host_ms=statistics.median(host) if host else None,
        host_samples_ms=host,
        enqueue_ms=statistics.median(enqueue) if enqueue else None,
        enqueue_samples_ms=enqueue,
        graph_ms=statistics.median(graph) if graph else None,
        graph_samples_ms=graph,
        throttled=_any(part.throttled for part in parts),
        contention="yes" if always_slowed else _contention(part.contention for part in parts),
        other_cpus=_largest(part.other_cpus for part in parts),
        page_faults=_largest(part.page_faults for part in parts),
        energy=next((part.energy for part in parts if part.energy is not None), None),
        error=next((part.error for part in parts if part.error is not None), None),
        valid=all(part.valid for part in parts),
        processes=len(parts),
        quiet_us=quiet_us,
        blocks=tuple(sifted),
        discarded_ms=others,
        telemetry=tuple(look for part in parts for look in part.telemetry),
        notes=(
            *([] if noise_ok else [_noise_note(first.target_relative, interval, median, of_processes)]),
            *slowed_notes(sifted, others, always_slowed),
            *dict.fromkeys(note for part in parts for note in part.notes if not note.startswith(ABOUT_THE_SAMPLES)),
        ),
    )


def kept_rounds(measurement: Measurement) -> dict[int, list[list[float]]]:
    """For each process, its rounds in order, each with the samples that count; rounds without any are left out."""
    rounds: dict[tuple[int, int], list[float]] = {}
    for block, samples in by_block(measurement.blocks, measurement.samples_ms, measurement.discarded_ms):
        if block.discarded is None:
            rounds.setdefault((block.process, block.round), []).extend(samples)
    processes: dict[int, list[list[float]]] = {}
    for (process, _), samples in rounds.items():
        processes.setdefault(process, []).append(samples)
    return processes


def _joined(parts: Sequence[Measurement]) -> tuple[list[Block], list[float]]:
    """All blocks and all samples; the processes are numbered anew, by their place."""
    blocks: list[Block] = []
    samples: list[float] = []
    for number, part in enumerate(parts):
        for block, taken in by_block(part.blocks, part.samples_ms, part.discarded_ms):
            blocks.append(dataclasses.replace(block, process=number))
            samples.extend(taken)
    return blocks, samples


def _of_processes(blocks: Sequence[Block], samples: Sequence[float], least: int) -> list[list[float]]:
    found: dict[int, list[float]] = {}
    at = 0
    for block in blocks:
        if block.discarded is None:
            found.setdefault(block.process, []).extend(samples[at : at + block.count])
        at += block.count
    return [taken for taken in found.values() if len(taken) >= least]


def _half_width(of_processes: Sequence[Sequence[float]]) -> float:
    """On the log scale."""
    medians, errors = [], []
    normal = statistics.NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
    for samples in of_processes:
        interval = median_interval(samples, LEVEL, dependence(samples))
        medians.append(interval.median)
        errors.append(interval.relative_width / (2.0 * normal))
    return between_processes(medians, errors, LEVEL)


def _noise_note(
    target: float, interval: tuple[float, float], median: float, of_processes: Sequence[Sequence[float]]
) -> str:
    medians = ", ".join(f"{statistics.median(samples):.4g}" for samples in of_processes)
    width = (interval[1] - interval[0]) / median
    wide = f"{width:.1%} of the median" if width < 1.0 else "wider than the median itself"
    return (
        f"noise target missed: the interval is {wide}, the target {target:.1%}; the processes' medians are {medians} ms"
    )


def _varied(blocks: Sequence[Block], quiet_us: float | None) -> bool:
    return quiet_us is not None and any(
        block.pace_us is not None and block.pace_us > quiet_us * SLOWED_FACTOR for block in blocks
    )


def _worst(reasons: Iterable[StopReason]) -> StopReason:
    seen = set(reasons)
    return "time limit" if "time limit" in seen else "sample limit" if "sample limit" in seen else "target met"


def _any(values: Iterable[bool | None]) -> bool | None:
    seen = list(values)
    if True in seen:
        return True
    return None if None in seen else False


def _contention(values: Iterable[Contention]) -> Contention:
    seen = set(values)
    return "yes" if "yes" in seen else "unknown" if "unknown" in seen else "no"


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _all(samples: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sample for of_part in samples for sample in of_part)
