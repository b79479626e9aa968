"""Evaluators that a spawned worker finds by name, and that do what the digest of a subject says.

A digest is ``DEED`` or ``DEED=DETAIL``. Every answer holds the process that gave it.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vnas.errors import ConfigError, MeasurementError, VnasError
from vnas.search.engine.protocol import Job, Subject


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class AcceleratorError(RuntimeError):
    """Named as torch's."""


class StrangeError(VnasError):
    """One that cannot be built from a message alone."""

    exit_code = 7

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def measuring(trial: int, deed: str, **attributes: Any) -> Job:
    return Job(trial, "measure", Subject(deed, deed, attributes))


def training(trial: int, deed: str, rung: int = 0) -> Job:
    return Job(trial, "train", Subject(deed, deed, {}), rung)


def child(lives_seconds: float) -> int:
    """A forked process that does nothing, like a loader's worker without work."""
    pid = os.fork()
    if pid == 0:
        time.sleep(lives_seconds)
        os._exit(0)
    return pid


class Scripted:
    def measure(self, subject: Subject) -> dict[str, Any]:
        deed, _, detail = subject.digest.partition("=")
        return {"pid": os.getpid(), **getattr(self, deed)(detail)}

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> dict[str, Any]:
        deed, _, detail = subject.digest.partition("=")
        return {"pid": os.getpid(), "rung": rung, **getattr(self, deed)(detail, progress)}

    def latency(self, detail: str) -> dict[str, Any]:
        return {"latency_ms": float(detail), "interval_ms": (1.0, 2.0)}

    def nap(self, detail: str) -> dict[str, Any]:
        time.sleep(float(detail))
        return {}

    def surroundings(self, detail: str) -> dict[str, Any]:
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return {"variable": os.environ.get(detail), "cpus": cpus, "modules": sorted(sys.modules)}

    def noisy(self, detail: str) -> dict[str, Any]:
        raise MeasurementError(f"too noisy: {detail}")

    def divide(self, detail: str) -> dict[str, Any]:
        return {"share": 1 / int(detail)}

    def crowd(self, detail: str) -> dict[str, Any]:
        errors = {
            "python": MemoryError(),
            "torch": OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        }
        raise errors[detail]

    def illegal(self, detail: str) -> dict[str, Any]:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    def unwritable(self, detail: str) -> dict[str, Any]:
        return {"net": object()}

    def signalled(self, detail: str) -> dict[str, Any]:
        os.kill(os.getpid(), int(detail))
        return {}

    def awaits(self, detail: str) -> dict[str, Any]:
        """Vanishes once there is a file of this name."""
        while not Path(detail).exists():
            time.sleep(0.01)
        os._exit(7)

    def exits(self, detail: str) -> dict[str, Any]:
        sys.exit(int(detail))

    def vanishes(self, detail: str) -> dict[str, Any]:
        os._exit(int(detail))

    def bereaves(self, detail: str) -> dict[str, Any]:
        """Leaves a process behind, which keeps its end of the socket open."""
        Path(detail).write_text(str(child(60.0)))
        os._exit(7)

    def hushes(self, detail: str) -> dict[str, Any]:
        """Closes its connection and goes on."""
        for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:  # it may have any number
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    os.close(descriptor)
        time.sleep(60.0)
        return {}

    def hurries(self, detail: str, progress: Callable[[float], None]) -> dict[str, Any]:
        """Reports far too often, and once more when it is long done."""
        for step in range(int(detail)):
            progress(step / int(detail))
        threading.Timer(0.3, progress, (0.99,)).start()
        return {"epochs": 1}

    def stumbles(self, detail: str, progress: Callable[[float], None]) -> dict[str, Any]:
        progress(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def breeds(self, detail: str, progress: Callable[[float], None]) -> dict[str, Any]:
        """Has a child of its own, says so, and then is busy for a minute."""
        Path(detail).write_text(f"{os.getpid()} {child(60.0)}")
        progress(0.5)
        time.sleep(60.0)
        return {}


def scripted() -> Scripted:
    return Scripted()


def misconfigured() -> Scripted:
    raise ConfigError("training.epochs is 0; at least 1 is allowed")


def strange() -> Scripted:
    raise StrangeError("this", "that")


def unimportable() -> Scripted:
    raise ImportError("no module named tensorrt")


def stillborn() -> Scripted:
    os._exit(5)
