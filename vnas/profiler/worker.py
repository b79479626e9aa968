"""``python -m vnas.profiler.worker``: one fresh process that measures what it is told, and ends.

Its plan is the first line of standard input (``plan``); its answers are the lines of standard output (``wire``).
Whatever else is printed here, by libraries or by the nets, goes to standard error. It lives as long as its input
stays open: when the parent has ended in any way, so does the worker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vnas.errors import EXIT_DONE, DeviceMemoryError, MeasurementError, VnasError
from vnas.profiler.plan import Cell, Plan
from vnas.profiler.records import from_plain
from vnas.profiler.wire import Outcome, outcome_line, progress_line

if TYPE_CHECKING:
    import torch

    from vnas.profiler.measuring import Job
    from vnas.profiler.protocol import Progress, Report

PROGRESS_SECONDS = 0.5
"""Between two lines of progress."""


def main() -> int:
    """Serve one plan; returns the exit code."""
    plans, answers = _take_standard_streams()
    with os.fdopen(answers, "w", encoding="utf-8") as out:

        def say(line: str) -> None:
            out.write(line + "\n")
            out.flush()

        plan = from_plain(Plan, json.loads(_first_line(plans)), "plan")
        threading.Thread(target=_end_with_parent, args=(plans,), daemon=True).start()
        for place, outcome in enumerate(measure_plan(plan, _seldom(lambda progress: say(progress_line(progress))))):
            say(outcome_line(place, outcome))
    return EXIT_DONE


def measure_plan(plan: Plan, progress: Report) -> list[Outcome]:
    """One outcome a cell, in order; a cell that cannot be built does not stop the others.

    A cell for which memory ran out has a DeviceMemoryError: all cells of a worker are in memory at once, so that it may
    do well alone.
    """
    from vnas.profiler.devices import resolve_device
    from vnas.profiler.measuring import measure_all

    try:
        device = resolve_device(device=plan.device)
        made = [_attempt(cell, device, plan.seed, progress) for cell in plan.cells]
        jobs = [job for job in made if not isinstance(job, VnasError)]
        measured: Iterator[Outcome] = iter(
            measure_all(
                jobs,
                device=device,
                rules=plan.rules,
                process=plan.process,
                seed=plan.seed,
                quiet_us=plan.quiet_us,
                progress=progress,
            )
        )
    except VnasError as error:
        return [error] * len(plan.cells)
    return [_told_apart(job if isinstance(job, VnasError) else next(measured)) for job in made]


def _told_apart(outcome: Outcome) -> Outcome:
    from vnas.profiler.runtimes.failures import memory_ran_out

    ran_out = isinstance(outcome, VnasError) and memory_ran_out(outcome)
    return DeviceMemoryError(str(outcome)) if ran_out else outcome


def _attempt(cell: Cell, device: torch.device, seed: int, progress: Report) -> Job | VnasError:
    try:
        return _job(cell, device, seed, progress)
    except VnasError as error:
        return error


def _job(cell: Cell, device: torch.device, seed: int, progress: Report) -> Job:
    import torch

    from vnas.profiler.measuring import Job
    from vnas.profiler.protocol import Progress
    from vnas.profiler.targets import find_target, materialise

    progress(Progress("prepare", name=cell.net))
    target = find_target(cell.net, cell.image_size)
    torch.manual_seed(seed)  # the same weights in every process and runtime
    try:
        net, inputs = materialise(target, cell.batch, device)
    except VnasError:
        raise
    except Exception as error:
        raise MeasurementError(f"it cannot be built: {type(error).__name__}: {error}") from error
    return Job(cell.net, net, inputs, cell.runtime, cell.precision)


def _seldom(report: Report, clock: Callable[[], float] = time.monotonic) -> Report:
    """At most one report in ``PROGRESS_SECONDS``: each costs the device a pause. One that waits is always told."""
    due = 0.0

    def sometimes(progress: Progress) -> None:
        nonlocal due
        if progress.waiting is not None or clock() >= due:
            report(progress)
            due = clock() + PROGRESS_SECONDS

    return sometimes


def _take_standard_streams() -> tuple[int, int]:
    """Private descriptors of standard input and output; what others read is empty, what they print is an error's."""
    plans, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return plans, answers


def _first_line(descriptor: int) -> bytes:
    """Read without a buffer, so that nothing of what follows is taken, and no lock is held when Python ends."""
    line = bytearray()
    while not line.endswith(b"\n"):
        read = os.read(descriptor, 65_536)
        if not read:
            raise EOFError("standard input ended before the plan did")
        line += read
    return bytes(line)


def _end_with_parent(descriptor: int) -> None:
    while os.read(descriptor, 65_536):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever it has started itself
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
