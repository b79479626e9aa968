"""Plain and probed calls that take turns, and what a probe costs."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Sequence

import torch

from vnas.profiler.layer_timing import ClockMarks, Trace, Tracer
from vnas.profiler.phases import guarded
from vnas.profiler.timers import Call, Clock, CpuTimer, Timer

TURN_CALLS = 5
"""Calls between putting probes on and taking them off: a pause that the untimed call after it makes good."""

PROBE_CHAIN = 200
"""Modules that do nothing, in a row: what the probe of one costs is measured on them."""

PHASE = "layers"


def take_turns(
    call: Call, timer: Timer, tracer: Tracer, calls: int, max_seconds: float
) -> tuple[list[float], list[Trace]]:
    """The plain calls in milliseconds, and the probed calls.

    Args:
        call: what is timed; warmed up.
        timer: of the plain calls.
        tracer: of the probed calls.
        calls: probed calls at most.
        max_seconds: time limit; there is at least one turn of each kind.

    Raises:
        MeasurementError: the callable raised.
    """
    start = timer.now()
    one = guarded(lambda: timer.time(call), PHASE) / 1e3
    turn_calls = max(1, min(TURN_CALLS, int(max_seconds / (8 * one)))) if one > 0 else TURN_CALLS
    plain: list[float] = []
    traces: list[Trace] = []
    for turn in itertools.count():
        count = min(turn_calls, calls - len(traces))
        for probing in (False, True) if turn % 2 == 0 else (True, False):
            if probing:
                with tracer.attached():
                    traces += [guarded(lambda: tracer.trace(call), PHASE) for _ in range(count + 1)][1:]
            else:
                plain += [guarded(lambda: timer.time(call), PHASE) for _ in range(count + 1)][1:]
        if len(traces) >= calls or timer.now() - start >= max_seconds:
            break
    return plain, traces


def middle_half(traces: Sequence[Trace]) -> Sequence[Trace]:
    """The calls that are left when the fastest and the slowest quarter are put aside."""
    ordered = sorted(traces, key=lambda trace: trace.total_ns)
    aside = len(ordered) // 4
    return ordered[aside : len(ordered) - aside]


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """Half of the samples lie between them; a single one is both."""
    if len(samples) == 1:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def probe_ms(clock: Clock) -> float:
    """What one run's probe adds to the segments around it on the CPU: getting into it and out, which no clock sees.

    Args:
        clock: nanoseconds.
    """
    chain = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(PROBE_CHAIN))).eval()
    call = functools.partial(chain, torch.zeros(1))
    tracer = Tracer(list(chain.modules()), ClockMarks(clock))
    plain, traces = take_turns(call, CpuTimer(clock), tracer, calls=20, max_seconds=0.2)
    probed_ms = statistics.median(trace.total_ns for trace in traces) / 1e6
    return max(probed_ms - statistics.median(plain), 0.0) / (PROBE_CHAIN + 1)
