"""A measurement over fresh processes, so that its interval covers what the next process would give.

    process 1   [eager: all nets, in rounds]  [onnxruntime: all nets, in rounds]
    process 2   [onnxruntime: ...]            [eager: ...]         the order is drawn anew for each
    process 3   [eager: ...]                  [onnxruntime: ...]
    merge       one Measurement a cell, over all of its processes

A bracket is one worker (``worker``), one after the other. A worker that dies takes no other cell with it: what it was
to measure is measured again at once, each cell in a worker of its own. So is all that one measured in which memory ran
out: what fitted beside the others may have been short of it too.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vnas.errors import DeviceMemoryError, VnasError
from vnas.profiler import spawn
from vnas.profiler.allocator import libc_version
from vnas.profiler.measurement import Measurement
from vnas.profiler.merging import merge_all
from vnas.profiler.plan import Cell, Plan, Rules, groups, per_process
from vnas.profiler.protocol import Progress
from vnas.profiler.spawn import WorkerDiedError, run_worker, worker_environment
from vnas.profiler.wire import Outcome

if TYPE_CHECKING:
    import torch

__all__ = ["Cell", "Outcome", "Progress", "Rules", "Standing", "replicate"]

APART_NOTE = "each process measured this net alone: one with the other nets too died"

MEMORY_NOTE = "each process measured this net alone: one with the other nets too ran out of memory"


@dataclass(frozen=True)
class Standing:
    """What is known of a cell so far.

    Attributes:
        outcome: over the processes that have ended; None before the first.
        complete: no more will come.
    """

    outcome: Outcome | None
    complete: bool


ProgressReport = Callable[[int, Progress], None]
"""Called with the number of the process, from 0, and where it is."""

PartsReport = Callable[[Sequence[Standing]], None]
"""Called after every worker with what is known of each cell."""


def replicate(
    cells: Sequence[Cell],
    device: str | torch.device,
    *,
    processes: int = 3,
    rules: Rules | None = None,
    seed: int = 0,
    progress: ProgressReport | None = None,
    on_parts: PartsReport | None = None,
    command: Sequence[str] | None = None,
) -> list[Outcome]:
    """Measure every cell in several fresh processes, one after the other.

    Args:
        cells: what to measure. Nets are found in the workers as they would be found here, on the same import path.
        device: ``cpu`` or ``cuda:0``, the same one in every worker.
        processes: fresh processes a cell.
        rules: for all processes together; by default those of ``Rules``.
        seed: of the weights, the images and all that is shuffled.
        progress: told twice a second at most.
        on_parts: told whenever a worker has ended, so that nothing finished is lost.
        command: that starts a worker; by default this package's.

    Returns:
        One outcome a cell, in order: its measurement over all processes, or the error that it ended with.

    Raises:
        UsageError: a number that is not allowed.
        KeyboardInterrupt: Ctrl-C; the worker has been ended.
    """
    rules = Rules() if rules is None else rules
    command = spawn.COMMAND if command is None else command
    share = per_process(rules, processes)
    variables = worker_environment(os.environ, sys.path, libc_version())
    course = [_Course() for _ in cells]
    for process in range(processes):
        waiting = deque(_workers(cells, course, random.Random(f"{seed} {process}")))
        while waiting:
            places = [place for place in waiting.popleft() if not course[place].refused]
            if not places:
                continue
            # Energy is of one process: what a counter shows does not change from one to the next.
            first = any(not course[place].parts for place in places)
            plan = Plan(
                cells=tuple(cells[place] for place in places),
                rules=dataclasses.replace(share, energy_seconds=rules.energy_seconds if first else 0.0),
                device=str(device),
                process=process,
                seed=seed,
                quiet_us=_quiet_us(course),
            )
            report = None if progress is None else _with_process(progress, process)
            try:
                outcomes = run_worker(plan, variables, report, command)
            except WorkerDiedError as error:
                if error.started and len(places) > 1:
                    _set_apart(places, course, waiting, APART_NOTE)
                    continue
                for place in places:
                    course[place].errors.append(error)
            else:
                ran_out = len(places) > 1 and any(isinstance(outcome, DeviceMemoryError) for outcome in outcomes)
                again = []
                for place, outcome in zip(places, outcomes, strict=True):
                    if ran_out and isinstance(outcome, Measurement | DeviceMemoryError):
                        again.append(place)
                    else:
                        course[place].take(outcome, rules.target_relative)
                _set_apart(again, course, waiting, MEMORY_NOTE)
            if on_parts is not None:
                on_parts(_standings(course, processes))
    return [standing.outcome for standing in _standings(course, processes) if standing.outcome is not None]


@dataclass
class _Course:
    """How it went for one cell so far."""

    parts: list[Measurement] = field(default_factory=list)
    errors: list[VnasError] = field(default_factory=list)
    refused: bool = False
    """Its first process could not build or call it; the others could not either."""
    apart: str | None = None
    """Why it has its workers to itself, where one that had others too ended badly: a note."""

    def take(self, outcome: Outcome, target_relative: float) -> None:
        """Keep what one process said, held against the target of all of them together."""
        if isinstance(outcome, Measurement):
            met = outcome.noise_ok and outcome.relative_width <= target_relative
            self.parts.append(dataclasses.replace(outcome, target_relative=target_relative, noise_ok=met))
            return
        self.refused = not self.parts and not self.errors
        self.errors.append(outcome)

    def complete(self, processes: int) -> bool:
        """Whether no more is to come."""
        return self.refused or len(self.parts) + len(self.errors) == processes


def _set_apart(places: Sequence[int], course: Sequence[_Course], waiting: deque[tuple[int, ...]], reason: str) -> None:
    """Each of these cells is measured again at once, and from now on in workers of its own."""
    for place in places:
        course[place].apart = reason
    waiting.extendleft((place,) for place in reversed(places))


def _quiet_us(course: Sequence[_Course]) -> float | None:
    seen = [part.quiet_us for one in course for part in one.parts if part.quiet_us is not None]
    return min(seen, default=None)


def _workers(cells: Sequence[Cell], course: Sequence[_Course], order: random.Random) -> list[tuple[int, ...]]:
    """Places of the cells of each worker of one process number, in shuffled order."""
    workers: list[tuple[int, ...]] = []
    for places in groups(cells):
        workers.append(tuple(place for place in places if course[place].apart is None))
        workers.extend((place,) for place in places if course[place].apart is not None)
    order.shuffle(workers)
    return workers


def _standings(course: Sequence[_Course], processes: int) -> list[Standing]:
    measured = [one for one in course if one.parts]
    merged = iter(merge_all([one.parts for one in measured]))
    standings = []
    for one in course:
        outcome: Outcome | None = None
        if one.parts:
            outcome = _noted(next(merged), one, processes)
        elif one.errors:
            outcome = one.errors[0]
        standings.append(Standing(outcome, one.complete(processes)))
    return standings


def _noted(result: Measurement, one: _Course, processes: int) -> Measurement:
    notes = [] if one.apart is None else [one.apart]
    if one.errors:
        first = str(one.errors[0]).partition("\n")[0]
        notes.append(f"{len(one.errors)} of {processes} processes failed: {first}")
    return dataclasses.replace(result, notes=(*result.notes, *notes)) if notes else result


def _with_process(progress: ProgressReport, process: int) -> Callable[[Progress], None]:
    return lambda where: progress(process, where)
