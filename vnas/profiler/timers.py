"""What times one call. Each timer gives one number in milliseconds; nothing but the call is in between.

    CpuTimer          |t0| call |t1|                              the call itself, on the CPU
    CudaEventTimer    |event| call |event| .. wait                GPU time of an eager call, its stalls included
    HostTimer         wait |t0| call .. wait |t1|                 what the caller waits, end to end
    EnqueueTimer      wait |t0| call |t1| .. wait                 what the host needs to launch the call
    ReplayTimer       given numbers on a simulated clock          for tests

A replay of a CUDA graph is timed by a CudaEventTimer, with the replay as the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from vnas.errors import MeasurementError

Call = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds


class Timer(Protocol):
    """Times single calls, and owns the clock that time limits are held against."""

    @property
    def name(self) -> str:
        """What the numbers are, for the result's ``timer`` field."""
        ...

    def time(self, call: Call) -> float:
        """Milliseconds that one call took."""
        ...

    def now(self) -> float:
        """Seconds on a clock that only goes forward."""
        ...


class Event(Protocol):
    """A timing event, as ``torch.cuda.Event(enable_timing=True)`` has it."""

    def record(self, stream: Any, /) -> None:
        """Enqueue the event behind what the stream has so far."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has passed the event."""
        ...

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from this event to the later one."""
        ...


class _WallClock:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock() / 1e9


class CpuTimer(_WallClock):
    """``perf_counter_ns`` around the call."""

    name = "perf_counter_ns"

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        super().__init__(clock)

    def time(self, call: Call) -> float:
        """Milliseconds that one call took."""
        clock = self._clock
        start = clock()
        call()
        return (clock() - start) / 1e6


class CudaEventTimer(_WallClock):
    """A pair of CUDA events around the call; the events are made once and used again.

    Args:
        make_event: a new timing event.
        stream: what the call launches on. Given here because looking it up takes a microsecond, which would
            otherwise lie between the two events.
        clock: for time limits.
    """

    name = "cuda events"

    def __init__(self, make_event: Callable[[], Event], stream: object, clock: Clock = time.perf_counter_ns) -> None:
        super().__init__(clock)
        self._stream = stream
        self._start = make_event()
        self._end = make_event()

    def time(self, call: Call) -> float:
        """Milliseconds between the two events."""
        start, end, stream = self._start, self._end, self._stream
        start.record(stream)
        call()
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end)


class HostTimer(_WallClock):
    """Host end to end: from an idle device to the call's last kernel done."""

    name = "host end to end"

    def __init__(self, synchronize: Callable[[], None], clock: Clock = time.perf_counter_ns) -> None:
        super().__init__(clock)
        self._synchronize = synchronize

    def time(self, call: Call) -> float:
        """Milliseconds from the call to the device being idle again."""
        clock, synchronize = self._clock, self._synchronize
        synchronize()
        start = clock()
        call()
        synchronize()
        return (clock() - start) / 1e6


class EnqueueTimer(_WallClock):
    """The host's share: until the call returns, with an idle device before it."""

    name = "host enqueue"

    def __init__(self, synchronize: Callable[[], None], clock: Clock = time.perf_counter_ns) -> None:
        super().__init__(clock)
        self._synchronize = synchronize

    def time(self, call: Call) -> float:
        """Milliseconds until the call returned."""
        clock, synchronize = self._clock, self._synchronize
        synchronize()
        start = clock()
        call()
        elapsed = clock() - start
        synchronize()
        return elapsed / 1e6


class ReplayTimer:
    """Replays given milliseconds on a clock that advances by exactly them: no test has to sleep.

    The call is still made, so that one that raises is seen. Warm-up takes from the trace like sampling does.

    Args:
        trace_ms: what each call is said to take, in order; may be endless.
    """

    name = "replay"

    def __init__(self, trace_ms: Iterable[float]) -> None:
        self._trace = iter(trace_ms)
        self._now_ms = 0.0
        self._taken = 0

    def time(self, call: Call) -> float:
        """The next number of the trace.

        Raises:
            MeasurementError: the trace has ended.
        """
        call()
        try:
            elapsed = next(self._trace)
        except StopIteration:
            raise MeasurementError(
                f"the replayed trace ended after {self._taken} calls; give a longer one or a lower time limit"
            ) from None
        self._taken += 1
        self._now_ms += elapsed
        return elapsed

    def now(self) -> float:
        """Seconds replayed so far."""
        return self._now_ms / 1e3
