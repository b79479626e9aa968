"""One worker as its driver sees it: a process, and the job it has.

    none  --give-->  starting  --Ready, Begun-->  at work  --Answered, Failed-->  idle  --give, Begun-->  at work

A process that dies at work fails its job. One that dies with a job that it had not begun is replaced at once, and the
job goes to the next; one that dies idle is replaced when the next job comes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from vnas.errors import DeviceError, VnasError
from vnas.search.engine.protocol import Advance, Answer, Evaluator, Event, Failure, Job
from vnas.search.interrupts import protected
from vnas.search.workers.channel import Advanced, Answered, Begun, DriverEnd, Failed, Message, Ready, Refused, packed
from vnas.search.workers.process import serve

FRUITLESS_STARTS = 3
"""Processes in a row that die with a job before they begin it, until no other is started."""

GRACE_SECONDS = 2.0
"""For a process that was asked to end, or whose end of the socket is closed."""

_REAP_SECONDS = 5.0
"""For a process that was killed; one that waits for a broken device may take longer, or for ever."""

_POLL_SECONDS = 0.01

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How a worker is started.

    Attributes:
        factory: makes the evaluator, in the worker; can be pickled.
        environment: variables that the process begins with, beside those of the driver.
        cpus: that it may run on, where the platform has such a thing; None for those of the driver.
        name: in messages, ``cuda:1`` or ``cpu 0-1``.
    """

    factory: Callable[[], Evaluator]
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: frozenset[int] | None = None
    name: str = "cpu"


class Worker:
    """A plan and its process, if there is one.

    Attributes:
        job: under way; None where it is free.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        self.job: Job | None = None
        self._plan = plan
        self._process: SpawnProcess | None = None
        self._channel: DriverEnd | None = None
        self._begun = False
        self._fruitless = 0
        self._heard = 0.0
        self._deaf_since: float | None = None

    @property
    def pid(self) -> int | None:
        """Of its process; None where there is none."""
        return None if self._process is None else self._process.pid

    @property
    def channel(self) -> DriverEnd | None:
        """To wait on; None where nothing will come."""
        return None if self._channel is None or self._channel.ended else self._channel

    @property
    def sentinel(self) -> int | None:
        """To wait on for the end of its process."""
        return None if self._process is None else self._process.sentinel

    def silence(self, now: float) -> float | None:
        """Seconds since it was heard of; None where it has no job."""
        return None if self.job is None else now - self._heard

    def give(self, job: Job) -> None:
        """Begin a job, in a new process where there is none.

        Raises:
            DeviceError: the CPUs of its plan are not to be had.
            VnasError: no process can be started.
            Exception: whatever pickle raises of a job or factory that it cannot write.
        """
        frame = packed(job)
        if self._channel is None:
            self._channel = self._started()
        self.job, self._begun = job, False
        self._heard = time.monotonic()
        self._channel.send(frame)

    def attend(self, hang_seconds: float | None) -> Iterator[Event]:
        """What has happened since the last time; never waits.

        Args:
            hang_seconds: of silence about a job after which the process is ended.

        Raises:
            VnasError: its evaluator cannot be built, or its processes die before they begin a job.
        """
        if self._process is None or self._channel is None:
            return
        exitcode = self._process.exitcode  # before reading: then nothing that it wrote is missed
        self._channel.flush()
        for message in self._channel.receive():
            yield from self._take(message)
        if self._channel is None:
            return
        now = time.monotonic()
        silence = self.silence(now)
        if exitcode is not None:
            yield from self._died(_ended_by(exitcode))
        elif self._deaf(now):
            yield from self._died("closed its connection without ending, and was ended")
        elif hang_seconds is not None and silence is not None and silence >= hang_seconds:
            yield from self._died(f"sent nothing for {hang_seconds:g} s and was ended")

    def ask_to_end(self) -> None:
        """After its job."""
        if self._channel is not None:
            self._channel.finish()

    def terminate(self) -> None:
        """End the process in the middle of its job."""
        if self._process is not None:
            self._process.terminate()

    def join(self, seconds: float) -> None:
        """Wait for the end of its process for so long at most."""
        # Not by its sentinel: that stays silent while something that the process has started lives on.
        deadline = time.monotonic() + seconds
        while self._process is not None and self._process.exitcode is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """End the process, if there still is one, and all that it started; nothing of it is left."""
        if self._process is None:
            return
        _kill_group(self._process)
        self.join(_REAP_SECONDS)
        if self._process.exitcode is not None:
            self._process.close()
        if self._channel is not None:
            self._channel.close()
        self._process, self._channel, self._deaf_since, self.job = None, None, None, None

    def _started(self) -> DriverEnd:
        ours, theirs = socket.socketpair()
        process = _SPAWN.Process(target=serve, args=(theirs, self._plan.factory), name=f"vnas worker {self._plan.name}")
        try:
            with _inherited(self._plan):
                process.start()
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise VnasError(f"the worker on {self._plan.name} could not be started: {error}") from error
            raise
        finally:
            theirs.close()
        self._process = process
        return DriverEnd(ours)

    def _take(self, message: Message) -> Iterator[Event]:
        self._heard = time.monotonic()
        match message:
            case Ready():
                pass
            case Begun():
                self._begun, self._fruitless = True, 0
            case Refused():
                error = self._refusal(message)
                self.kill()
                raise error
            case _ if self.job is not None:
                yield self._event(self.job, message)

    def _event(self, job: Job, message: Advanced | Answered | Failed) -> Event:
        if isinstance(message, Advanced):
            return Advance(job, message.share)
        self.job = None
        if isinstance(message, Answered):
            return Answer(job, message.attributes)
        if message.spent:
            self.kill()
        return Failure(job, message.reason, message.fault, message.traceback)

    def _refusal(self, message: Refused) -> VnasError:
        if message.traceback is None:
            return message.error
        error = VnasError(f"{self._who()} could not start: {message.error}")
        error.add_note(message.traceback)
        return error

    def _deaf(self, now: float) -> bool:
        """Whether nothing more can come of it, though its process has not ended for a while."""
        if self._channel is None or not self._channel.ended:
            return False
        self._deaf_since = now if self._deaf_since is None else self._deaf_since
        return now - self._deaf_since >= GRACE_SECONDS

    def _died(self, how: str) -> Iterator[Event]:
        job, reason = self.job, f"{self._who()} {how}"
        self.kill()
        if job is None:
            return
        if self._begun:
            yield Failure(job, reason, "worker")
            return
        self._fruitless += 1
        if self._fruitless == FRUITLESS_STARTS:
            raise VnasError(f"{reason} before it began its job, as the {FRUITLESS_STARTS - 1} before it did")
        self.give(job)

    def _who(self) -> str:
        return f"the worker on {self._plan.name} (process {self.pid})"


def _ended_by(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if name == "SIGKILL":
        return f"was killed by {name}; the kernel's out-of-memory killer is the usual cause"
    return f"was killed by {name}"


def _kill_group(process: SpawnProcess) -> None:
    """The process, which may not lead its group yet, then whatever is in the group."""
    process.kill()
    if process.pid is not None and hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


_starting = threading.Lock()


@contextmanager
def _inherited(plan: WorkerPlan) -> Iterator[None]:
    """A process that is started here has the plan's environment and CPUs from its first instruction on.

    It does not hear Ctrl-C until it says so: it would print a traceback while it imports.

    Raises:
        DeviceError: none of the CPUs may be used.
    """
    resource_tracker.ensure_running()  # else it would be started in here too, and unblock the signal
    with protected(), _starting, _variables(plan.environment), _affinity(plan), _deaf_to_ctrl_c():
        yield


@contextmanager
def _variables(environment: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _affinity(plan: WorkerPlan) -> Iterator[None]:
    if plan.cpus is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, plan.cpus)
    except OSError as error:
        raise DeviceError(
            f"the worker on {plan.name} is to run on the CPUs {sorted(plan.cpus)}, but this process may only use "
            f"{sorted(before)}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
