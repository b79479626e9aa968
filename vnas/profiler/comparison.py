"""Two measurements of the same net: same, faster, slower or undecided, from their distributions."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vnas.errors import UsageError
from vnas.profiler.lines import decimals, invalid_reason
from vnas.profiler.measurement import Measurement
from vnas.profiler.merging import ENOUGH_OF_ONE, kept_rounds
from vnas.profiler.ratio import ratio_interval
from vnas.profiler.results import Entry

Verdict = Literal["same", "faster", "slower", "undecided"]

_NOT_COMPARED = frozenset({"device_kind", "device_type", "date_utc", "packages"})


@dataclass(frozen=True)
class Comparison:
    """What became of a net's latency.

    Attributes:
        net: as it was named.
        form: what was built of it.
        batch: images a call; None where it is not called with a tensor.
        runtime: how it was run.
        precision: as measured; None if unknown.
        old_ms: median before.
        new_ms: median now.
        ratio: ``new_ms / old_ms``.
        ratio_interval: of the true ratio (low, high); None where the samples cannot tell.
        level: coverage of the interval.
        verdict: ``same``: the whole interval is within the tolerance of 1. ``faster`` or ``slower``: the whole interval
            is below or above 1. ``undecided``: none of these, or a measurement that is not valid.
        notes: why it is undecided, what the interval leaves out, and what else is not as it was.
    """

    net: str
    form: str
    batch: int | None
    runtime: str
    precision: str | None
    old_ms: float
    new_ms: float
    ratio: float
    ratio_interval: tuple[float, float] | None
    level: float
    verdict: Verdict
    notes: tuple[str, ...]


def pair(old: Sequence[Entry], new: Sequence[Entry]) -> tuple[list[tuple[Entry, Entry]], list[Entry]]:
    """Entries of the same net, form, runtime, precision, image size and input shapes (the batch with them).

    What is there more than once on both sides is paired in order.

    Returns:
        The pairs, and those only in ``new``, each in their order.
    """
    waiting: dict[object, deque[Entry]] = {}
    for entry in old:
        waiting.setdefault(_identity(entry), deque()).append(entry)
    pairs: list[tuple[Entry, Entry]] = []
    only_new: list[Entry] = []
    for entry in new:
        if partners := waiting.get(_identity(entry)):
            pairs.append((partners.popleft(), entry))
        else:
            only_new.append(entry)
    return pairs, only_new


def compare(old: Entry, new: Entry, *, tolerance: float = 0.01, level: float = 0.95) -> Comparison:
    """Judge one net.

    Args:
        old: before.
        new: now, on the same kind of device.
        tolerance: a change up to this share counts as none.
        level: coverage of the interval. Each of n nets that did not change is called slower with a probability of up
            to (1 - level) / 2; where one false alarm in all is too much, use 1 - .05 / n.

    Raises:
        UsageError: the entries are not of one net run in one way, or of another kind of device; or a tolerance below 0
            or a level outside (0, 1).
    """
    _check(old, new, tolerance, level)
    before, after = old.measurement, new.measurement
    found = ratio_interval(processes(before), processes(after), level)
    ratio = after.median_ms / before.median_ms
    notes = [*_invalid("old", before), *_invalid("new", after)]
    interval: tuple[float, float] | None = None
    verdict: Verdict = "undecided"
    if math.isinf(found.high):
        notes.append("one sample says nothing of the noise; measure with more --max-seconds")
    else:
        # The medians of all samples need not be the means of the processes' medians that the interval stands around.
        interval = (min(found.low, ratio), max(found.high, ratio))
        if not notes:
            verdict = judge(interval, tolerance)
    notes += [*_unit_notes(found.unit, before, after), *_shaky("old", before), *_shaky("new", after)]
    notes += differences(before, after)
    return Comparison(
        net=new.net,
        form=new.form,
        batch=after.batch,
        runtime=after.runtime,
        precision=after.precision,
        old_ms=before.median_ms,
        new_ms=after.median_ms,
        ratio=ratio,
        ratio_interval=interval,
        level=level,
        verdict=verdict,
        notes=tuple(notes),
    )


def judge(interval: tuple[float, float], tolerance: float) -> Verdict:
    """What an interval of the ratio says.

               1-t   1   1+t
    same        |  [-|-]  |         the whole interval within the tolerance
    same        |    | [-]|         even where it leaves 1 out
    faster  [-] |    |    |         all below 1
    faster    [-|-]  |    |
    slower      |    |  [-|-]       all above 1
    undecided [-|----|-]  |         neither
    """
    low, high = interval
    if low >= 1.0 - tolerance and high <= 1.0 + tolerance:
        return "same"
    if high < 1.0:
        return "faster"
    return "slower" if low > 1.0 else "undecided"


def processes(measurement: Measurement) -> list[list[list[float]]]:
    """Samples that count, in ms, by process and round; without blocks, all in one round of one process.

    A process with fewer than ``ENOUGH_OF_ONE`` of them is left out where two others have as many.
    """
    found = [[taken for taken in rounds if taken] for rounds in kept_rounds(measurement).values()]
    found = [rounds for rounds in found if rounds] or [[list(measurement.samples_ms)]]
    enough = [rounds for rounds in found if sum(map(len, rounds)) >= ENOUGH_OF_ONE]
    return enough if len(enough) > 1 else found


def differences(old: Measurement, new: Measurement) -> list[str]:
    """One line for each thing, the net aside, that is not as it was: another explanation of a change."""
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in ("timer", "layout")]
    pairs += [
        (field.name, getattr(old.environment, field.name), getattr(new.environment, field.name))
        for field in dataclasses.fields(old.environment)
        if field.name not in _NOT_COMPARED
    ]
    was, now = old.environment.packages, new.environment.packages
    pairs += [(name, was.get(name), now.get(name)) for name in sorted({*was, *now})]
    return [f"differs: {name} {_word(was)} -> {_word(now)}" for name, was, now in pairs if was != now]


def comparison_line(comparison: Comparison) -> str:
    """Change of the latency and its interval, both medians, the verdict.

    E.g. ``timm:resnet18 eval  eager fp32  batch 1  +1.8 % [+0.9 .. +2.7]  12.31 -> 12.53 ms  slower``.
    """
    c = comparison
    low, high = c.ratio_interval or (c.ratio, 1.0)
    width = abs(high - low)
    digits = min(max(decimals(100.0 * width), 1), 3)
    interval = f"[{_percent(low, digits)} .. {_percent(high, digits)}]" if c.ratio_interval else "[unknown]"
    places = max(decimals(width * c.old_ms), decimals(c.old_ms / 100.0))
    parts = [
        f"{c.net} {c.form}",
        f"{c.runtime} {c.precision or 'precision unknown'}",
        f"batch {c.batch if c.batch is not None else 'unknown'}",
        f"{_percent(c.ratio, digits)} % {interval}",
        f"{c.old_ms:.{places}f} -> {c.new_ms:.{places}f} ms",
        c.verdict,
    ]
    return "  ".join(parts)


def could_match(entry: Entry, wanted: Sequence[object]) -> bool:
    """Whether an entry may be of the same thing as another that is not measured yet.

    Args:
        entry: as it was read.
        wanted: net, form, image size, runtime, precision and input shapes of the other; None for what is not known.
    """
    return all(want is None or want == has for want, has in zip(wanted, _identity(entry), strict=True))


def _identity(entry: Entry) -> tuple[object, ...]:
    m = entry.measurement
    return entry.net, entry.form, entry.image_size, m.runtime, m.precision, m.input_shapes


def _check(old: Entry, new: Entry, tolerance: float, level: float) -> None:
    if not 0.0 <= tolerance < math.inf or not 0.0 < level < 1.0:
        raise UsageError(f"tolerance {tolerance}, level {level}; they must be at least 0, and between 0 and 1")
    if _identity(old) != _identity(new):
        names = ("net", "form", "image size", "runtime", "precision", "input shapes")
        unlike = [
            f"{name} {_word(was)} and {_word(now)}"
            for name, was, now in zip(names, _identity(old), _identity(new), strict=True)
            if was != now
        ]
        raise UsageError(f"not one thing measured twice: {', '.join(unlike)}; use pair() to find what belongs together")
    before, after = old.measurement.environment.device_kind, new.measurement.environment.device_kind
    if before != after:
        raise UsageError(
            f"{new.net} was measured on {before!r} before and on {after!r} now: the latency of another device says "
            "nothing of the net; measure both on one kind of device"
        )


def _invalid(which: str, measurement: Measurement) -> Iterator[str]:
    if not measurement.valid:
        yield f"the {which} measurement is not valid: {invalid_reason(measurement)}"


def _unit_notes(unit: str, old: Measurement, new: Measurement) -> Iterator[str]:
    if unit == "stretches":
        yield (
            "one process each: other fresh processes may differ by more than the interval says; "
            "measure with --processes 3 or more"
        )
    if unit == "borrowed":
        which, other = ("old", "new") if len(processes(old)) == 1 else ("new", "old")
        yield (
            f"the {which} measurement is of one process: the spread between processes is taken from the {other} one; "
            "measure both with --processes 3 or more"
        )


def _shaky(which: str, measurement: Measurement) -> Iterator[str]:
    if measurement.throttled:
        yield f"the {which} measurement was throttled"
    if measurement.contention == "yes":
        yield f"the {which} measurement had contention"


def _percent(ratio: float, digits: int) -> str:
    return f"{100.0 * (ratio - 1.0):+.{digits}f}"


def _word(value: object) -> str:
    return "unknown" if value is None else str(value)
