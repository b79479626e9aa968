"""Samples in blocks, each between two looks at the device: which of them count, and who took them when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Discarded = Literal["throttled", "slowed"]

ASIDE_FACTOR = 1.08
"""Blocks with a pace this much above the quietest one are put aside: within the quiet state a reading is up to 8 %
above its lowest, and where it is more the memory is busy or the cores are, and nets take 3 to 8 % longer."""

SLOWED_FACTOR = 1.15
"""A pace this much above the quietest one is another state of the machine: the states seen lie 60 % apart, and a third
one that is seldom seen lies in between."""

ASIDE_SHARE = 0.25
"""Of the samples below ``SLOWED_FACTOR`` that must lie below ``ASIDE_FACTOR`` too, for the others to be put aside.
Where fewer do, the quietest moments are not the machine's usual state but, say, a boost at the beginning."""

MOSTLY = 0.5
"""Share of samples put aside beyond which the machine was contended, whatever the others show."""


@dataclass(frozen=True)
class Block:
    """Samples taken one after the other, between two looks at the device.

    The blocks of a measurement, in order, cut ``samples_ms`` (those kept) and ``discarded_ms`` (those not) into
    pieces of ``count`` samples.

    Attributes:
        process: number of the process, from 0.
        round: number of the round in that process, from 0; a net has one turn in each.
        start_seconds: since the first sample of this net in its process.
        count: samples in the block.
        pace_us: on the CPU, what the reference operation took at the slower end of the block (``pace``); None
            elsewhere.
        discarded: why the samples do not count, e.g. ``throttled`` or ``slowed``; None where they do.
    """

    process: int
    round: int
    start_seconds: float
    count: int
    pace_us: float | None = None
    discarded: Discarded | None = None


def sift(blocks: Sequence[Block], quiet_us: float | None, enough: int, factor: float = ASIDE_FACTOR) -> list[Block]:
    """The blocks, with those marked that were taken while the machine was slowed.

    Put aside is what lies above ``factor`` times the quiet pace, or above ``SLOWED_FACTOR`` times where too little lies
    below. Where fewer than ``enough`` samples are undisturbed,
    the least disturbed ones fill up: the limit is the lowest pace that leaves so many. Throttled blocks stay marked.
    """
    plain = [
        block if block.discarded == "throttled" else dataclasses.replace(block, discarded=None) for block in blocks
    ]
    if quiet_us is None:
        return plain
    near = quiet_us * factor
    if _count_up_to(plain, near) < ASIDE_SHARE * _count_up_to(plain, quiet_us * SLOWED_FACTOR):
        near = quiet_us * SLOWED_FACTOR
    limit = max(near, _pace_of_the_first(plain, enough))
    return [
        dataclasses.replace(block, discarded="slowed")
        if block.discarded is None and block.pace_us is not None and block.pace_us > limit
        else block
        for block in plain
    ]


def disturbed(blocks: Sequence[Block], quiet_us: float | None) -> bool:
    """Whether the machine was slowed for most samples, or for any that count, for want of others."""
    slowed = sum(block.count for block in blocks if block.discarded == "slowed")
    if slowed > MOSTLY * sum(block.count for block in blocks):
        return True
    return quiet_us is not None and any(
        block.discarded is None and block.pace_us is not None and block.pace_us > quiet_us * SLOWED_FACTOR
        for block in blocks
    )


def _count_up_to(blocks: Sequence[Block], limit_us: float) -> int:
    """Samples at a known pace up to the limit."""
    return sum(
        block.count
        for block in blocks
        if block.discarded is None and block.pace_us is not None and block.pace_us <= limit_us
    )


def _pace_of_the_first(blocks: Sequence[Block], enough: int) -> float:
    """The pace up to which the blocks hold so many samples; infinite where they do not."""
    count = sum(block.count for block in blocks if block.discarded is None and block.pace_us is None)
    paced = [block for block in blocks if block.discarded is None and block.pace_us is not None]
    for block in sorted(paced, key=lambda block: block.pace_us or 0.0):
        count += block.count
        if count >= enough:
            return block.pace_us or 0.0
    return float("inf")


def kept_count(blocks: Sequence[Block]) -> int:
    """Samples that count."""
    return sum(block.count for block in blocks if block.discarded is None)


def split(blocks: Sequence[Block], samples: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Samples that count, and the others, each in their order.

    Args:
        blocks: with ``len(samples)`` samples in all.
        samples: all of them, in the order taken.
    """
    kept: list[float] = []
    others: list[float] = []
    at = 0
    for block in blocks:
        (kept if block.discarded is None else others).extend(samples[at : at + block.count])
        at += block.count
    return tuple(kept), tuple(others)


def by_block(
    blocks: Sequence[Block], samples_ms: Sequence[float], discarded_ms: Sequence[float]
) -> Iterator[tuple[Block, Sequence[float]]]:
    """Each block with its samples: the inverse of ``split``."""
    kept_at = others_at = 0
    for block in blocks:
        if block.discarded is None:
            yield block, samples_ms[kept_at : kept_at + block.count]
            kept_at += block.count
        else:
            yield block, discarded_ms[others_at : others_at + block.count]
            others_at += block.count
