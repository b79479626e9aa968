"""What vnas itself costs, beside the work it is asked for.

    python benchmarks/overheads.py

Each row is the median of its runs and their 95 % order-statistic interval, on the machine named below the table.
The targets are the project's own: help in under half a second, a cost in under 50 ms, a front of 10,000 points in
under 50 ms, at most 5 % on top of the samples of a measurement.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import vnas
from vnas.nets import Architecture, cost
from vnas.pareto import non_dominated
from vnas.profiler import capture_environment, measure
from vnas.profiler.statistics import median_interval


@dataclass(frozen=True)
class Row:
    """One thing that was timed."""

    what: str
    unit: str
    target: float
    values: list[float]


def seconds(call: Callable[[], object], runs: int, scale: float) -> list[float]:
    """Wall time of each run, in units of ``1 / scale`` seconds, after one run that is not counted."""
    call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * scale)
    return times


def helping(module: str) -> Callable[[], object]:
    """A fresh process that prints the help of a command."""
    return lambda: subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, check=True)


def spin(microseconds: int) -> Callable[[], None]:
    """Busy for so long, whatever the machine; a tenth more and less in turns, as equal samples would be enough soon."""
    lengths = itertools.cycle((900 * microseconds, 1_100 * microseconds))

    def busy() -> None:
        end = time.perf_counter_ns() + next(lengths)
        while time.perf_counter_ns() < end:
            pass

    return busy


def overhead(microseconds: int, threads: int) -> float:
    """Percent that a measurement takes beyond the sum of all its samples, those put aside included."""
    began = time.perf_counter()
    result = measure(
        spin(microseconds),
        device="cpu",
        threads=threads,
        target_relative=1e-9,
        max_warmup_seconds=0.0,
        min_seconds=0.0,
        max_seconds=2.0,
    )
    took_ms = (time.perf_counter() - began) * 1e3
    return 100.0 * (took_ms / (sum(result.samples_ms) + sum(result.discarded_ms)) - 1.0)


def of(threads: int) -> str:
    """In words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def rows() -> list[Row]:
    """Everything that is timed, in order."""
    small, large = (Architecture.named(name, image_size=224) for name in ("vanillanet_5", "vanillanet_13"))
    points = np.random.default_rng(0).random((10_000, 2))
    front = np.column_stack([points[:, 0], -points[:, 0]])  # every point on the front: the worst case
    return [
        *(
            Row(f"python -m {module} --help", "s", 0.5, seconds(helping(module), 15, 1.0))
            for module in ("vnas.search", "vnas.profiler", "vnas.report")
        ),
        Row("cost(vanillanet_5)", "ms", 50.0, seconds(lambda: cost(small), 25, 1e3)),
        Row("cost(vanillanet_13)", "ms", 50.0, seconds(lambda: cost(large), 25, 1e3)),
        Row("front of 10,000 points, all on it", "ms", 50.0, seconds(lambda: non_dominated(front), 25, 1e3)),
        *(
            Row(
                f"measure() beyond its samples: calls of {microseconds / 1e3:g} ms, {of(threads)}",
                "%",
                5.0,
                [overhead(microseconds, threads) for _ in range(11)],
            )
            for microseconds in (20, 100, 1_000, 10_000)
            for threads in (1, 2)
        ),
    ]


def main() -> None:
    """Print the table."""
    table = rows()
    environment = capture_environment(torch.device("cpu"))
    print("# What vnas itself costs\n")
    print("| what | median | 95 % interval | runs | target | met |")
    print("|---|---|---|---|---|---|")
    for row in table:
        interval = median_interval(row.values)
        median = float(np.median(row.values))
        print(
            f"| `{row.what}` | {median:.3g} {row.unit} | {interval.low:.3g} to {interval.high:.3g} | {len(row.values)} "
            f"| {row.target:g} {row.unit} | {'yes' if median < row.target else 'no'} |"
        )
    print(
        f"\n{environment.device_kind}, Python {platform.python_version()}, torch {environment.torch}, "
        f"vnas {vnas.__version__}, {environment.date_utc[:10]}. Command: `python benchmarks/overheads.py`"
    )


if __name__ == "__main__":
    main()
