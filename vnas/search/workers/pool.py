"""An executor whose jobs are done by processes of this machine, one a plan."""

from __future__ import annotations

import atexit
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait as wait_for_any
from types import TracebackType
from typing import Any

from vnas.errors import VnasError
from vnas.search.engine.protocol import Event, Job
from vnas.search.interrupts import protected
from vnas.search.workers.worker import GRACE_SECONDS, Worker, WorkerPlan

__all__ = ["ProcessPool", "WorkerPlan"]

_LOOK_SECONDS = 1.0
"""Between two looks at the processes, at most: a loader's worker that outlives its parent hides that it has ended."""

_FLUSH_SECONDS = 0.05
"""Between two tries to hand over a job to a worker that does not take it yet."""


class ProcessPool:
    """An ``Executor``. A process is started when its first job comes, and again after one that died.

    A worker that dies or hangs at a job fails it with the fault ``worker``, whoever is to blame. Whatever its processes
    have started ends with them, and they end with the driver.

    Args:
        factories: a plan for each worker.
        hang_seconds: of silence about a job after which its process is ended, a start included; None for never.
            Measuring says nothing until it is done, nor does waiting for a device.
    """

    def __init__(self, factories: Sequence[WorkerPlan], hang_seconds: float | None = None) -> None:
        if not factories:
            raise ValueError("a pool needs one plan at least")
        self._workers = [Worker(plan) for plan in factories]
        self._hang_seconds = hang_seconds
        self._events: deque[Event] = deque()
        self._error: VnasError | None = None
        self._closed = False
        atexit.register(self.close)  # before multiprocessing waits for its processes

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """Jobs that may be under way at once."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the processes there are."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def submit(self, job: Job) -> None:
        """Give a job to a free worker.

        Raises:
            VnasError: a worker cannot be started: the error of its evaluator's factory, or that three of its processes
                in a row died before they began a job; from now on, every call raises it.
            RuntimeError: no worker is free, or the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the pool is closed")
        with protected():
            self._attend()
            if self._error is not None:
                raise self._error
            free = [worker for worker in self._workers if worker.job is None]
            if not free:
                raise RuntimeError(f"all {self.slots} workers have a job")
            min(free, key=lambda worker: worker.pid is None).give(job)

    def wait(self, seconds: float) -> Event | None:
        """The next event, or None after so many seconds without one.

        Raises:
            VnasError: as ``submit``, once all that happened before is told.
        """
        deadline = self.clock() + seconds
        while not self._events:
            if self._error is not None:
                raise self._error
            left = deadline - self.clock()
            wait_for_any(self._sources(), max(0.0, min(left, self._patience())))
            with protected():
                self._attend()
            if left <= 0:
                break
        return self._events.popleft() if self._events else None

    def clock(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def close(self) -> None:
        """End every process and drop every job. Takes a few seconds where they are busy; may be called twice."""
        if self._closed:
            return
        self._closed = True
        with protected():
            try:
                self._end()
            finally:
                for worker in self._workers:
                    worker.kill()
        atexit.unregister(self.close)

    def _end(self) -> None:
        for end in (Worker.ask_to_end, Worker.terminate):
            for worker in self._workers:
                end(worker)
            deadline = self.clock() + GRACE_SECONDS
            for worker in self._workers:
                worker.join(max(0.0, deadline - self.clock()))

    def _attend(self) -> None:
        for worker in self._workers:
            try:
                for event in worker.attend(self._hang_seconds):
                    self._events.append(event)
            except VnasError as error:
                self._error = self._error or error

    def _sources(self) -> list[Any]:
        """What is readable when something happens."""
        found = [source for worker in self._workers for source in (worker.channel, worker.sentinel)]
        return [source for source in found if source is not None]

    def _patience(self) -> float:
        """Seconds after which to look although nothing was readable."""
        patience = _LOOK_SECONDS
        now = self.clock()
        for worker in self._workers:
            silence = worker.silence(now)
            if silence is not None and self._hang_seconds is not None:
                patience = min(patience, self._hang_seconds - silence)
            if worker.channel is not None and worker.channel.pending:
                patience = min(patience, _FLUSH_SECONDS)
        return patience
