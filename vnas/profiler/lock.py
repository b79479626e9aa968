"""One process at a time measures on a device, and none trains on it meanwhile; for all processes and users.

    measurer   wait for the turnstile, alone  | keep it, wait for the device, alone  | pass | measure       | let go
    trainer    wait for the turnstile, shared | keep it, wait for the device, shared | pass | train, epoch  | let go

A measurer that waits keeps the turnstile, so trainers that come later stand behind it and cannot starve it; a trainer
that waits keeps a share of it, so measurers that take turns cannot starve it either.

The locks are POSIX record locks on two bytes of one file a device. They belong to a process: the kernel drops them
however it ends, and a forked child (a worker of a data loader, a subprocess) cannot keep them alive, as it would with
flock. Two traps come with them. Closing any descriptor of the file drops them, so a process opens it once and keeps
it. They do not tell threads apart, so ``_Door`` does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vnas.errors import MeasurementError
from vnas.profiler import lock_file
from vnas.profiler.devices import cuda_uuid
from vnas.profiler.lock_file import DEVICE, TURNSTILE

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.05
"""Between two tries: a wake-up of some microseconds, which the one who measures does not notice."""

REMIND_SECONDS = 10.0
"""Between two messages of one who waits."""

OnWait = Callable[[str], object]

_logger = logging.getLogger("vnas.profiler")


@dataclass(frozen=True)
class Held:
    """What ``device_lock`` yields.

    Attributes:
        note: why there is no lock, or not the whole of it; None where it is held.
    """

    note: str | None = None


def lock_key(device: torch.device) -> str:
    """What a device is locked by: its UUID, ``GPU-...``, a slice's own, ``MIG-...``; ``cpu`` for all others."""
    if device.type != "cuda":
        return "cpu"
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    uuid = cuda_uuid(index)
    if uuid.startswith(("GPU-", "MIG-")):
        return uuid
    # CUDA leaves the prefix out; only the name ("... MIG 1g.10gb") tells a slice.
    return f"MIG-{uuid}" if "MIG" in torch.cuda.get_device_name(index).split() else f"GPU-{uuid}"


@contextmanager
def device_lock(
    key: str, *, exclusive: bool = True, timeout_seconds: float | None = None, on_wait: OnWait | None = None
) -> Iterator[Held]:
    """Hold a device for as long as the context lasts. A thread that holds it already goes straight in.

    Where no lock can be had (Windows, a folder that cannot be written, a file system without locks), the context
    goes on without one and its note says why. The locks lie in ``$VNAS_LOCK_DIR``, else in ``/tmp/vnas-locks``.

    Args:
        key: of the device, from ``lock_key``.
        exclusive: alone, to measure; False shares it with others that train.
        timeout_seconds: how long to wait; None for as long as it takes.
        on_wait: told who holds the device, when waiting begins and every ten seconds from then on; by default the
            logger ``vnas.profiler`` is, as a warning.

    Raises:
        MeasurementError: the device was not free in time; says who holds it and what to do.
    """
    door = _door(key)
    if isinstance(door, str):
        yield Held(door)
        return
    thread = threading.get_ident()
    note = door.enter(thread, exclusive, timeout_seconds, _logger.warning if on_wait is None else on_wait)
    try:
        yield Held(note)
    finally:
        door.leave(thread)


class _Door:
    """The lock of one device, as one process holds it: which of its threads is where."""

    def __init__(self, key: str, descriptor: int) -> None:
        self._key = key
        self._descriptor = descriptor
        self._mutex = threading.Lock()
        self._at_turnstile: int | None = None
        self._alone: int | None = None
        self._depth = 0
        self._shares: Counter[int] = Counter()
        self._record = b""

    def enter(self, thread: int, exclusive: bool, timeout_seconds: float | None, on_wait: OnWait) -> str | None:
        if self._reenter(thread):
            if exclusive and self._alone != thread:
                return f"{self._key} is measured inside a block that trains on it, so others may train on it too"
            return None
        begun = time.monotonic()
        said = -REMIND_SECONDS
        try:
            while not self._try(thread, exclusive):
                waited = time.monotonic() - begun
                if timeout_seconds is not None and waited >= timeout_seconds:
                    raise MeasurementError(
                        f"{self._holder()}; waited {timeout_seconds:g} s for it. Let that process finish or end it, "
                        "then try again"
                    )
                if waited - said >= REMIND_SECONDS:
                    said = waited
                    on_wait(f"{self._holder()}; waiting")
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._give_up(thread)
            raise
        return None

    def leave(self, thread: int) -> None:
        with self._mutex:
            if self._descriptor < 0:  # a child that was forked inside the block: the lock is its parent's
                return
            if self._alone == thread:
                self._depth -= 1
                if self._depth:
                    return
                self._alone = None
            else:
                self._shares[thread] -= 1
                self._shares += Counter()  # drops what has come to nothing
                if self._shares:
                    return
            lock_file.wipe(self._descriptor, self._record)
            lock_file.release(self._descriptor, DEVICE)

    def gone(self) -> bool:
        """Whether the file was deleted, by a cleaner of old files say: others would lock a new one."""
        with self._mutex:
            free = self._alone is None and not self._shares and self._at_turnstile is None
            return free and os.fstat(self._descriptor).st_nlink == 0

    def close(self, forked: bool = False) -> None:
        if forked:
            self._mutex = threading.Lock()  # another thread may have held it, and there are no others in the child
        os.close(self._descriptor)
        self._descriptor = -1

    def _reenter(self, thread: int) -> bool:
        with self._mutex:
            if self._alone == thread:
                self._depth += 1
            elif self._shares[thread]:
                self._shares[thread] += 1
            else:
                return False
            return True

    def _try(self, thread: int, exclusive: bool) -> bool:
        with self._mutex:
            if self._at_turnstile not in (None, thread):
                return False
            if self._at_turnstile is None:
                if not lock_file.try_lock(self._descriptor, TURNSTILE, exclusive):
                    return False
                self._at_turnstile = thread
            if self._alone is not None or (exclusive and self._shares):
                return False
            if not self._shares and not lock_file.try_lock(self._descriptor, DEVICE, exclusive):
                return False
            if exclusive:
                self._alone, self._depth = thread, 1
            else:
                self._shares[thread] += 1
            self._record = lock_file.write(self._descriptor, exclusive)
            self._pass_turnstile()
            return True

    def _give_up(self, thread: int) -> None:
        with self._mutex:
            if self._descriptor >= 0 and self._at_turnstile == thread:
                self._pass_turnstile()

    def _pass_turnstile(self) -> None:
        lock_file.release(self._descriptor, TURNSTILE)
        self._at_turnstile = None

    def _holder(self) -> str:
        with self._mutex:
            found = lock_file.read(self._descriptor)
        if found is None:
            return f"{self._key} is held by another process"
        doing = "being measured" if found.exclusive else "being trained on"
        who = f"process {found.pid} ({found.what})" if found.pid != os.getpid() else "another thread of this process"
        return f"{self._key} is {doing} by {who} since {time.strftime('%H:%M', time.localtime(found.since))}"


_doors: dict[Path, _Door] = {}
_opening = threading.Lock()


def _door(key: str) -> _Door | str:
    """The one door of a key in this process; where there can be none, the reason."""
    path = lock_file.place(key)
    with _opening:
        door = _doors.get(path)
        if door is not None and door.gone():
            _doors.pop(path).close()
            door = None
        if door is None:
            descriptor = lock_file.open_file(path)
            if isinstance(descriptor, str):
                return f"no lock on {key}: {descriptor}"
            door = _doors[path] = _Door(key, descriptor)
        return door


def _forget() -> None:
    """In a forked child nothing is held; closing there what it inherited drops no lock of its parent's."""
    global _opening
    _opening = threading.Lock()
    for door in _doors.values():
        door.close(forked=True)
    _doors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
