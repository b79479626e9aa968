"""One step of a GPU report: a process with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]

GRACE_SECONDS = 5.0
"""Between the interrupt that cuts a step, after which pytest still writes its report, and its end."""

Outcome = Literal["waiting", "running", "passed", "failed", "cut", "not run", "interrupted"]
"""``cut``: ran out of time; ``not run``: had none left."""


def with_checkout(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that imports vnas from this checkout, installed or not."""
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))}


def run_step(command: Sequence[str], log: Path, seconds: float) -> tuple[Outcome, int | None]:
    """Run a command in a process group of its own, which ends with it, and keep what it prints.

    Args:
        command: to run in the root of the checkout.
        log: gets its output as it comes.
        seconds: until it is cut.
    """
    environment = {**with_checkout(os.environ), "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as output:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            output.write(f"could not be started: {error}\n")
            return "failed", None
        outcome: Outcome
        try:
            outcome = "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "cut"
        except KeyboardInterrupt:
            outcome = "interrupted"
        _end(process)
        if outcome == "cut":
            output.write(f"\ncut: not done after {seconds:.0f} s\n")
    return outcome, process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the step to stop, then end all that is left of its group; it may have ended and left children."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
