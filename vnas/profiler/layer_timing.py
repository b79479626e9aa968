"""Time by module: probes around each ``forward`` cut a call into segments, each of the innermost module that runs.

    net(x)           |- net -|--- conv ---|- net -|--- act ---|- net -|
    boundaries     begin   enter        leave   enter       leave    end

A module's exclusive time is the sum of its segments, so the times of all modules sum to the call by construction.
What lies outside of a module's children, e.g. an addition in its ``forward``, is its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from vnas.profiler.timers import Call, Clock, Event

ROOT = 0
"""Number of the module that is called; the others are numbered as ``named_modules`` lists them."""


@dataclass(frozen=True)
class Trace:
    """One call, by module.

    Attributes:
        exclusive_ns: time of each module without that of the modules it calls.
        runs: how often each module ran.
        probes_ns: time spent in the probes themselves, which is in no module's time; 0 where it cannot be told apart.
    """

    exclusive_ns: tuple[int, ...]
    runs: tuple[int, ...]
    probes_ns: int = 0

    @property
    def total_ns(self) -> int:
        """The call without the probes' own time."""
        return sum(self.exclusive_ns)


class Marks(Protocol):
    """Boundaries of one call in the order they were passed."""

    def begin(self, owner: int) -> None:
        """The call starts; its first segment is ``owner``'s."""
        ...

    def cut(self, owner: int) -> None:
        """A segment ends; the next one is ``owner``'s."""
        ...

    def end(self) -> None:
        """The call is over, on the device too."""
        ...

    def segments(self) -> Iterator[tuple[int, int]]:
        """Owner and nanoseconds of each segment."""
        ...

    @property
    def probes_ns(self) -> int:
        """Time between segments."""
        ...


class ClockMarks:
    """Boundaries on a clock of the host, read on entering a probe and again on leaving it.

    Args:
        clock: nanoseconds.
    """

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock

    def begin(self, owner: int) -> None:
        """The call starts; its first segment is ``owner``'s."""
        self._owners = [owner]
        self._ends: list[int] = []
        self._starts = [self._clock()]

    def cut(self, owner: int) -> None:
        """A segment ends; the next one is ``owner``'s."""
        clock = self._clock
        self._ends.append(clock())
        self._owners.append(owner)
        self._starts.append(clock())

    def end(self) -> None:
        """The call is over."""
        self._ends.append(self._clock())

    def segments(self) -> Iterator[tuple[int, int]]:
        """Owner and nanoseconds of each segment."""
        for owner, start, end in zip(self._owners, self._starts, self._ends, strict=True):
            yield owner, end - start

    @property
    def probes_ns(self) -> int:
        """Time between segments."""
        return sum(start - end for end, start in zip(self._ends, self._starts[1:], strict=False))


class EventMarks:
    """Boundaries as CUDA events; a module's time holds the stalls of the launching host, and the events' own cost.

    Args:
        make_event: a new timing event; those made are used again in the next call.
        stream: what the call launches on.
    """

    probes_ns = 0

    def __init__(self, make_event: Callable[[], Event], stream: object) -> None:
        self._make_event = make_event
        self._stream = stream
        self._events: list[Event] = []

    def begin(self, owner: int) -> None:
        """The call starts; its first segment is ``owner``'s."""
        self._owners: list[int] = []
        self.cut(owner)

    def cut(self, owner: int) -> None:
        """A segment ends; the next one is ``owner``'s."""
        if len(self._events) == len(self._owners):
            self._events.append(self._make_event())
        self._events[len(self._owners)].record(self._stream)
        self._owners.append(owner)

    def end(self) -> None:
        """The call is over, on the device too."""
        self.cut(ROOT)
        self._events[len(self._owners) - 1].synchronize()

    def segments(self) -> Iterator[tuple[int, int]]:
        """Owner and nanoseconds of each segment."""
        for number, owner in enumerate(self._owners[:-1]):
            yield owner, round(self._events[number].elapsed_time(self._events[number + 1]) * 1e6)


class Tracer:
    """Follows which module runs; its probes are on the modules only inside ``attached``.

    Args:
        modules: all modules, the called one first.
        marks: where boundaries are kept.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], marks: Marks) -> None:
        self._modules = modules
        self._marks = marks
        self._running: list[int] = []
        self._runs = [0] * len(modules)
        self._thread = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The probes are on the modules for as long as the context lasts, whatever happens in it."""
        with probed(self._modules, self._enter, self._leave):
            yield

    def trace(self, call: Call) -> Trace:
        """One call, cut into segments."""
        marks = self._marks
        self._running = [ROOT]
        self._runs = [0] * len(self._modules)
        self._thread = threading.get_ident()
        marks.begin(ROOT)
        call()
        marks.end()
        exclusive = [0] * len(self._modules)
        for owner, nanoseconds in marks.segments():
            exclusive[owner] += nanoseconds
        return Trace(tuple(exclusive), tuple(self._runs), marks.probes_ns)

    def _enter(self, number: int) -> None:
        if threading.get_ident() != self._thread:  # its time is that of the module which waits for the thread
            return
        self._running.append(number)
        self._runs[number] += 1
        self._marks.cut(number)

    def _leave(self, number: int) -> None:
        if threading.get_ident() != self._thread:
            return
        ended = self._running.pop()
        assert ended == number
        self._marks.cut(self._running[-1])


@contextmanager
def probed(
    modules: Sequence[torch.nn.Module], enter: Callable[[int], None], leave: Callable[[int], None]
) -> Iterator[None]:
    """``enter`` and ``leave`` are told the number of each module whose ``forward`` starts or ends, also by raising.

    ``forward`` is wrapped on the instance, because a module with a hook is called on a path of torch's that costs
    several microseconds more than the call without; the time of hooks that others registered is the caller's.
    """
    with ExitStack() as probes:
        for number, module in enumerate(modules):
            before = vars(module).get("forward")
            vars(module)["forward"] = _wrapped(module.forward, number, enter, leave)
            probes.callback(_put_back, module, before)
        yield


def _wrapped(
    forward: Callable[..., object], number: int, enter: Callable[[int], None], leave: Callable[[int], None]
) -> Callable[..., object]:
    def probe(*arguments: object, **keywords: object) -> object:
        enter(number)
        try:
            return forward(*arguments, **keywords)
        finally:
            leave(number)

    return probe


def _put_back(module: torch.nn.Module, forward: Callable[..., object] | None) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward
