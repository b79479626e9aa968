"""What is to be measured, by which rules, and what one worker process is told of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vnas.errors import UsageError

SHORTEST_ENERGY_SECONDS = 1.0
"""An energy counter that steps every tenth of a second says nothing of less."""


@dataclass(frozen=True)
class Cell:
    """One net in one way to run it: a row of the table.

    Attributes:
        net: NET as it is typed.
        image_size: height and width of the images in pixels; None is the net's own.
        batch: images a call.
        runtime: as ``runtimes`` names it.
        precision: as ``runtimes`` names it; None is that of the net as it is built.
    """

    net: str
    image_size: int | None = None
    batch: int = 1
    runtime: str = "eager"
    precision: str | None = None


@dataclass(frozen=True)
class Rules:
    """When a measurement is done, for all its processes together.

    Attributes:
        target_relative: width of the median's interval over the median to get below.
        min_samples: samples at least.
        min_seconds: seconds of sampling at least.
        max_seconds: time limit of sampling.
        max_warmup_seconds: cap of the warm-up, in each process.
        energy_seconds: window of the energy measurement; 0 is: none.
        threads: torch threads; None is: as set.
        patience_seconds: to wait for slowed CPUs to become quiet; it does not count as sampling.

    Raises:
        UsageError: a number that is not allowed.
    """

    target_relative: float = 0.01
    min_samples: int = 50
    min_seconds: float = 0.5
    max_seconds: float = 15.0
    max_warmup_seconds: float = 3.0
    energy_seconds: float = 0.0
    threads: int | None = None
    patience_seconds: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.target_relative < math.inf, "target_relative", self.target_relative, "more than 0, e.g. 0.01")
        _require(self.min_samples >= 1, "min_samples", self.min_samples, "at least 1")
        _require(0 < self.max_seconds < math.inf, "max_seconds", self.max_seconds, "more than 0")
        within = f"from 0 to max_seconds = {self.max_seconds:g}"
        _require(0 <= self.min_seconds <= self.max_seconds, "min_seconds", self.min_seconds, within)
        _require(0 <= self.max_warmup_seconds < math.inf, "max_warmup_seconds", self.max_warmup_seconds, "at least 0")
        _require(
            self.energy_seconds == 0 or SHORTEST_ENERGY_SECONDS <= self.energy_seconds < math.inf,
            "energy_seconds",
            self.energy_seconds,
            f"at least {SHORTEST_ENERGY_SECONDS:g}, or 0 to leave energy out",
        )
        _require(0 <= self.patience_seconds < math.inf, "patience_seconds", self.patience_seconds, "at least 0")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")


@dataclass(frozen=True)
class Plan:
    """What one worker process is told.

    Attributes:
        cells: to be measured, in interleaved rounds.
        rules: the share of this process.
        device: as torch names it.
        process: number of the process, from 0.
        seed: of the weights, the images and the order of the rounds.
        quiet_us: pace of the CPUs when nothing slows them, as far as earlier processes saw it (``pace``).
    """

    cells: tuple[Cell, ...]
    rules: Rules
    device: str
    process: int = 0
    seed: int = 0
    quiet_us: float | None = None


def per_process(rules: Rules, processes: int) -> Rules:
    """The share of one of several processes.

    Samples and seconds of sampling are divided; each process warms up in full, and an energy window is not cut. An
    interval from k times the samples is narrower by the root of k, so each alone may be that much wider.

    Raises:
        UsageError: ``processes`` is below 1.
    """
    _require(processes >= 1, "processes", processes, "at least 1")
    return dataclasses.replace(
        rules,
        target_relative=rules.target_relative * math.sqrt(processes),
        min_samples=math.ceil(rules.min_samples / processes),
        min_seconds=rules.min_seconds / processes,
        max_seconds=rules.max_seconds / processes,
        patience_seconds=rules.patience_seconds / processes,
    )


def groups(cells: Sequence[Cell]) -> list[tuple[int, ...]]:
    """Places of the cells that share a process: those of one runtime, in order.

    Two frameworks' pools of threads in one process slow each other down.
    """
    by_runtime: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        by_runtime.setdefault(cell.runtime, []).append(place)
    return [tuple(places) for places in by_runtime.values()]


def _require(ok: bool, name: str, value: float | None, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{name} = {value}; it must be {allowed}")
