"""Samples in blocks, each between two looks at the device: which of them count, and who took them when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Discarded = Literal["throttled", "slowed"]

SLOWED_FACTOR = 1.08
"""A pace this much above the quietest one is another state of the machine: the states seen lie 10 % and 60 % apart,
readings within one of them 3 %."""


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


def sift(blocks: Sequence[Block], quiet_us: float | None, enough: int) -> list[Block]:
    """The blocks, with those marked that were taken while the machine was slowed.

    None is marked where fewer than ``enough`` samples would remain. Throttled blocks stay marked.
    """
    plain = [
        block if block.discarded == "throttled" else dataclasses.replace(block, discarded=None) for block in blocks
    ]
    if quiet_us is None:
        return plain
    limit = quiet_us * SLOWED_FACTOR
    sifted = [
        dataclasses.replace(block, discarded="slowed")
        if block.discarded is None and block.pace_us is not None and block.pace_us > limit
        else block
        for block in plain
    ]
    return sifted if kept_count(sifted) >= enough else plain


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
