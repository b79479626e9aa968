"""One measurement of several fresh processes out of one of each. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Iterable, Sequence

from vnas.profiler.blocks import SLOWED_FACTOR, Block, by_block, disturbed, sift, split
from vnas.profiler.measurement import Measurement
from vnas.profiler.notes import ABOUT_THE_SAMPLES, ENERGY_LEFT_OUT, launch_notes, slowed_notes
from vnas.profiler.phases import StopReason
from vnas.profiler.protocol import LAUNCH_BOUND_SHARE
from vnas.profiler.statistics import between_processes, median_interval
from vnas.profiler.telemetry import Contention

LEVEL = 0.95

ENOUGH = 12
"""Samples of all processes together that count at least. More of them would be filled up with slowed ones, which draw
the median further than a small number of quiet ones leaves it uncertain."""

ENOUGH_OF_ONE = 3
"""Of one process, or one round of it, for its median to count."""


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
    # Moments a little slower tell how processes differ as well as the quietest do, and there are more of them.
    of_processes = _of_processes(sift(blocks, quiet_us, ENOUGH, SLOWED_FACTOR), samples)
    if len(of_processes) < 2:
        # What counts is of one process; how processes differ is then told by the least slowed samples of each.
        own = [block for of_one in _by_process(blocks) for block in sift(of_one, quiet_us, ENOUGH_OF_ONE)]
        of_processes = _of_processes(own, samples)
    counting = _of_processes(sifted, samples)
    kept, others = split(sifted, samples)
    median = statistics.median(kept)
    half = _half_width(of_processes)
    interval = (median * math.exp(-half), median * math.exp(half))
    first = parts[0]
    noise_ok = (interval[1] - interval[0]) / median <= first.target_relative
    slowed = disturbed(sifted, quiet_us)
    graph = _all(part.graph_samples_ms for part in parts)
    host = _all(part.host_samples_ms for part in parts)
    enqueue = _all(part.enqueue_samples_ms for part in parts)
    bound = statistics.median(enqueue) > LAUNCH_BOUND_SHARE * median if enqueue else None
    valid = all(part.valid for part in parts)
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
        launch_bound=bound,
        host_ms=statistics.median(host) if host else None,
        host_samples_ms=host,
        enqueue_ms=statistics.median(enqueue) if enqueue else None,
        enqueue_samples_ms=enqueue,
        graph_ms=statistics.median(graph) if graph else None,
        graph_samples_ms=graph,
        throttled=_any(part.throttled for part in parts),
        contention="yes" if slowed else _contention(part.contention for part in parts),
        other_cpus=_largest(part.other_cpus for part in parts),
        page_faults=_largest(part.page_faults for part in parts),
        energy=next((part.energy for part in parts if part.energy is not None), None),
        error=next((part.error for part in parts if part.error is not None), None),
        valid=valid,
        processes=len(parts),
        quiet_us=quiet_us,
        blocks=tuple(sifted),
        discarded_ms=others,
        telemetry=tuple(look for part in parts for look in part.telemetry),
        notes=(
            *([] if noise_ok else [_noise_note(first.target_relative, interval, median, counting)]),
            *slowed_notes(sifted, others, slowed),
            *launch_notes(bound and valid, median, enqueue),
            *_once(note for note in _of_parts(parts) if not note.startswith(ABOUT_THE_SAMPLES)),
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


def _of_processes(blocks: Sequence[Block], samples: Sequence[float]) -> list[list[list[float]]]:
    """Samples that count, by process and round."""
    found: dict[int, dict[int, list[float]]] = {}
    at = 0
    for block in blocks:
        if block.discarded is None:
            of_process = found.setdefault(block.process, {})
            of_process.setdefault(block.round, []).extend(samples[at : at + block.count])
        at += block.count
    rounds = [list(of_process.values()) for of_process in found.values()]
    return [of_process for of_process in rounds if sum(map(len, of_process)) >= ENOUGH_OF_ONE] or rounds


def _by_process(blocks: Sequence[Block]) -> list[list[Block]]:
    found: dict[int, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.process, []).append(block)
    return list(found.values())


def _half_width(of_processes: Sequence[Sequence[Sequence[float]]]) -> float:
    """On the log scale; never less than what the samples, all taken as independent, leave open."""
    medians = [[statistics.median(samples) for samples in _of_size(rounds)] for rounds in of_processes]
    everything = median_interval([sample for rounds in of_processes for samples in rounds for sample in samples])
    return max(between_processes(medians, LEVEL), everything.relative_width / 2.0)


def _of_size(rounds: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Rounds with enough samples for a median; all of them together where none has."""
    enough = [samples for samples in rounds if len(samples) >= ENOUGH_OF_ONE]
    return enough or [[sample for samples in rounds for sample in samples]]


def _noise_note(
    target: float, interval: tuple[float, float], median: float, of_processes: Sequence[Sequence[Sequence[float]]]
) -> str:
    of_each = ([sample for samples in rounds for sample in samples] for rounds in of_processes)
    medians = ", ".join(f"{statistics.median(samples):.4g}" for samples in of_each)
    width = (interval[1] - interval[0]) / median
    wide = f"{width:.1%} of the median" if width < 1.0 else "wider than the median itself"
    return (
        f"noise target missed: the interval is {wide}, the target {target:.1%}; the processes' medians are {medians} ms"
    )


def _of_parts(parts: Sequence[Measurement]) -> list[str]:
    """All notes. Energy is of one process: that the others left it out is no news where one did not."""
    notes = [note for part in parts for note in part.notes]
    if notes.count(ENERGY_LEFT_OUT) < len(parts):
        return [note for note in notes if note != ENERGY_LEFT_OUT]
    return notes


def _once(notes: Iterable[str]) -> list[str]:
    """Each note once: of those that differ in their numbers alone, the first."""
    seen: dict[str, str] = {}
    for note in notes:
        seen.setdefault(re.sub(r"[\d.]+", "#", note), note)
    return list(seen.values())


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
