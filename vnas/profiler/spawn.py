"""One worker process, from start to end, as its parent sees it. Nothing of it is left running, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.allocator import allocator_variables
from vnas.profiler.plan import Plan
from vnas.profiler.protocol import Report
from vnas.profiler.records import to_plain
from vnas.profiler.wire import Outcome, parse

COMMAND = (sys.executable, "-P", "-m", "vnas.profiler.worker")
"""-P: the worker's path is the parent's, not the parent's and the current folder before it."""

LAST_WORDS = 20
"""Lines of a dead worker's standard error that are shown."""

PATIENCE_SECONDS = 10.0
"""For a worker that has answered to end by itself."""

LOOK_SECONDS = 0.5
"""Between two looks whether a silent worker still lives: its end does not close a pipe that a child of it holds."""


class WorkerDiedError(MeasurementError):
    """A worker ended before it had answered.

    Attributes:
        started: it had got as far as building its nets, so that one of them may be the cause.
    """

    def __init__(self, message: str, started: bool) -> None:
        super().__init__(message)
        self.started = started


def run_worker(
    plan: Plan, environment: Mapping[str, str], progress: Report | None = None, command: Sequence[str] = COMMAND
) -> list[Outcome]:
    """One outcome a cell of the plan, in order.

    Args:
        plan: goes to the worker's standard input.
        environment: all of the worker's variables.
        progress: told what the worker tells.
        command: that starts it.

    Raises:
        WorkerDiedError: it ended, or spoke nonsense, before every cell had its outcome; the message says how, and
            what its last words were.
    """
    outcomes: dict[int, Outcome] = {}
    started = False
    complaint: str | None = None
    with tempfile.TemporaryFile() as chatter:
        # A session of its own: Ctrl-C in the terminal reaches the parent alone, and one signal reaches all of it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=chatter,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            _tell(process, plan)
            for line in _answers(process):
                said = parse(line)
                started = True
                if isinstance(said, tuple):
                    place, outcome = said
                    if not 0 <= place < len(plan.cells):
                        raise UsageError(f"there is no cell {place}")
                    outcomes[place] = outcome
                elif progress is not None:
                    progress(said)
                if len(outcomes) == len(plan.cells):
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_SECONDS)
        except UsageError as error:
            complaint = f"gave an answer that cannot be read: {error}"
        finally:
            _end(process)
        if len(outcomes) == len(plan.cells):
            return [outcomes[place] for place in range(len(plan.cells))]
        runtimes = ", ".join(dict.fromkeys(cell.runtime for cell in plan.cells))
        raise WorkerDiedError(
            f"process {plan.process + 1} ({runtimes}) {complaint or how_it_ended(process.returncode)}"
            f"{_last_words(chatter)}",
            started,
        )


def how_it_ended(code: int) -> str:
    """An exit code, or the negative number of a signal, in words."""
    if code >= 0:
        return f"ended with exit code {code} before it had measured"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
    return f"died of {name}{hint}"


def worker_environment(own: Mapping[str, str], path: Sequence[str], libc: str | None) -> dict[str, str]:
    """Variables of a worker: those of this process, its import path, and an allocator that keeps its memory.

    Args:
        own: variables of this process.
        path: ``sys.path`` of this process.
        libc: as ``CS_GNU_LIBC_VERSION`` has it, e.g. ``glibc 2.36``; None elsewhere.
    """
    folders = dict.fromkeys(str(Path(entry).absolute()) for entry in path)
    return {**allocator_variables(libc), **own, "PYTHONPATH": os.pathsep.join(folders)}


def _tell(process: subprocess.Popen[bytes], plan: Plan) -> None:
    """Hand over the plan. The pipe stays open: its end tells the worker that this process has ended."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already; how, is seen when it is waited for
        process.stdin.write(json.dumps(to_plain(plan)).encode() + b"\n")
        process.stdin.flush()


def _answers(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if process.poll() is not None:
                return
            continue
        if line is None:
            return
        yield line


def _pump(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    try:
        with stream:
            for line in stream:
                lines.put(line)
    finally:
        lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it has started; nothing happens to one that has ended and left nothing."""
    assert process.stdin is not None
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()


def _last_words(chatter: IO[bytes]) -> str:
    chatter.seek(max(chatter.seek(0, os.SEEK_END) - 65_536, 0))
    lines = chatter.read().decode(errors="replace").splitlines()[-LAST_WORDS:]
    return "".join(["; the last it said:", *(f"\n  {line}" for line in lines)]) if lines else ""
