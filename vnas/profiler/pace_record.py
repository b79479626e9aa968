"""The quietest paces that processes have seen on this machine, so that a call in a slow minute knows that it is one.

A call that sees the machine in its slowed state only takes that for its quiet one, and says that nothing disturbed
it. What earlier calls saw, with as many threads on the same CPUs since the machine was started, says otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vnas.profiler import lock_file

PROCESSES = 20
"""The last so many count: a machine that was moved or changed is forgotten after them."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def record_path(threads: int) -> Path | None:
    """Where the paces of this machine lie, beside the locks; None where it cannot be told from another.

    Args:
        threads: that share the reference operation.
    """
    import torch

    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
        cpus = sorted(os.sched_getaffinity(0))  # not on every system
    except (OSError, AttributeError):
        return None
    what = json.dumps([boot, os.getuid(), cpus, threads, torch.__version__, torch.backends.cpu.get_cpu_capability()])
    return lock_file.place(f"pace-{hashlib.sha256(what.encode()).hexdigest()[:16]}").with_suffix(".json")


def known_quiet_us(path: Path | None) -> float | None:
    """Microseconds of the reference operation on the undisturbed machine: the second lowest of what processes saw.

    None where fewer than two have said something, and where the record cannot be read or is another user's.
    """
    seen = sorted(_read(path))
    return seen[1] if len(seen) > 1 else None


def remember(path: Path | None, quiet_us: float | None) -> None:
    """Add what one process saw; where the record cannot be written, nothing is remembered."""
    if path is None or quiet_us is None:
        return
    seen = [*_read(path), quiet_us][-PROCESSES:]
    try:
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o644)
                json.dump(seen, file)
            Path(part).replace(path)
        except OSError:
            Path(part).unlink()
            raise
    except OSError:
        return


def _read(path: Path | None) -> Sequence[float]:
    if path is None:
        return ()
    try:
        if path.stat().st_uid != os.getuid():
            return ()
        values = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ()
    if not isinstance(values, list):
        return ()
    return [float(value) for value in values if isinstance(value, int | float) and 0.0 < value < float("inf")]
