"""Where the time of a net goes: by module, on the CPU or a GPU, with a check against the call without probes.

    plain plain .. | probed probed .. | probed probed .. | plain plain .. | ...

Plain and probed calls take turns in short blocks, so that drift hits both alike. The rows are means over the middle
half of the probed calls, ordered by what they took: they sum to ``total_ms`` exactly, and a disturbed call is left out.
Beside each mean stand the quartiles of the module's time over all probed calls.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from vnas.errors import UsageError
from vnas.profiler.devices import check_places, resolve_device
from vnas.profiler.layer_kernels import count_kernels
from vnas.profiler.layer_table import LayerBreakdown, LayerRow, breakdown_columns, breakdown_rows
from vnas.profiler.layer_timing import ClockMarks, EventMarks, Marks, Trace, Tracer
from vnas.profiler.layer_turns import middle_half, probe_ms, quartiles, take_turns
from vnas.profiler.lock import device_lock, lock_key
from vnas.profiler.phases import WarmUpRule, check, warm_up
from vnas.profiler.statistics import median_interval
from vnas.profiler.timers import Call, Clock, CpuTimer, CudaEventTimer, Timer

__all__ = ["LayerBreakdown", "LayerRow", "breakdown_columns", "breakdown_rows", "layer_breakdown"]

MOST_CALLS = 100
"""Probed calls by default, time permitting."""

EVENTS_NOTE = (
    "times are between CUDA events at the modules' boundaries: where the host launches more slowly than the GPU works, "
    "they are the host's"
)


def layer_breakdown(
    module: torch.nn.Module,
    /,
    *inputs: object,
    device: str | torch.device = "cpu",
    calls: int | None = None,
    max_seconds: float = 5.0,
    tolerance: float = 0.1,
    clock: Clock = time.perf_counter_ns,
) -> LayerBreakdown:
    """Time of each module in ``module(*inputs)``, under ``torch.inference_mode``, alone on the device (``lock``).

    On a GPU the boundaries are CUDA events on the current stream: the times hold the stalls of the launching host.

    Args:
        module: an eager module in eval mode, on ``device``.
        inputs: its positional arguments; tensors among them are on ``device``.
        device: ``cpu``, ``cuda:0`` or a torch.device.
        calls: probed calls at most; by default 100. There is at least one.
        max_seconds: time limit of the timed calls.
        tolerance: share of ``plain_ms`` that the sum may be off before a note warns.
        clock: nanoseconds of the host.

    Raises:
        UsageError: not an eager module, or a number that is not allowed.
        MeasurementError: the module raised (the original is the cause), or it or an input is on another device.
        DeviceError: there is no such device.
    """
    names, modules = _modules(module)
    if calls is not None and calls < 1:
        raise UsageError(f"calls = {calls}; it must be at least 1")
    if not max_seconds > 0 or not tolerance > 0:
        raise UsageError(f"max_seconds = {max_seconds} and tolerance = {tolerance} must be more than 0")
    place = resolve_device(device=device)
    check_places(module, inputs, place)
    call = functools.partial(module, *inputs)
    with device_lock(lock_key(place)) as held, _settings(place):
        timer, marks, finish = _instruments(place, clock)
        check(call, finish)
        warm_up(timer, call, WarmUpRule(max_seconds=min(max_seconds, 1.0)))
        plain, traces = take_turns(call, timer, Tracer(modules, marks), calls or MOST_CALLS, max_seconds)
        cost_ms = probe_ms(clock) if place.type == "cpu" else None
        counted = count_kernels(modules, call, finish) if place.type == "cuda" else None
    without = median_interval(plain)
    plain_ms = without.median
    kept = middle_half(traces)
    total_ms = sum(trace.total_ns for trace in kept) / len(kept) / 1e6
    runs = sum(sum(trace.runs) for trace in kept) / len(kept)
    overhead_ms = None if cost_ms is None else cost_ms * runs
    difference = (total_ms - (overhead_ms or 0.0)) / plain_ms - 1.0
    rows = _rows(names, modules, kept, traces, counted if isinstance(counted, tuple) else None)
    training = "the module is in training mode; call .eval() for the times of inference"
    return LayerBreakdown(
        rows=rows,
        total_ms=total_ms,
        total_quartiles_ms=quartiles([trace.total_ns / 1e6 for trace in traces]),
        plain_ms=plain_ms,
        plain_interval_ms=(without.low, without.high),
        overhead_ms=overhead_ms,
        difference=difference,
        tolerance=tolerance,
        calls=len(traces),
        device=str(place),
        timer=timer.name,
        notes=(
            *([training] if module.training else []),
            *([EVENTS_NOTE] if place.type == "cuda" else []),
            *_difference_notes(difference, tolerance, total_ms, plain_ms, runs, cost_ms),
            *_runs_notes(rows, traces),
            *([counted] if isinstance(counted, str) else []),
            *([held.note] if held.note is not None else []),
        ),
    )


def _modules(module: object) -> tuple[list[str], list[torch.nn.Module]]:
    if not isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        raise UsageError(f"layers are those of a torch.nn.Module; got a {kind}: pass the module that it calls")
    named = list(module.named_modules())
    for path, part in named:
        where = f"{path} of the module" if path else "the module"
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError(f"{where} is a ScriptModule, which takes no probes; pass the module it was made from")
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise UsageError(f"{where} is compiled, which leaves no modules to time; pass it as it was before")
    return [path for path, _ in named], [part for _, part in named]


@contextmanager
def _settings(place: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        if place.type == "cuda":
            stack.enter_context(torch.cuda.device(place))
        stack.enter_context(torch.inference_mode())
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        yield


def _instruments(place: torch.device, clock: Clock) -> tuple[Timer, Marks, Call]:
    if place.type == "cpu":
        return CpuTimer(clock), ClockMarks(clock), lambda: None
    stream = torch.cuda.current_stream(place)
    make_event = functools.partial(torch.cuda.Event, enable_timing=True)
    finish = functools.partial(torch.cuda.synchronize, place)
    return CudaEventTimer(make_event, stream, clock), EventMarks(make_event, stream), finish


def _rows(
    names: Sequence[str],
    modules: Sequence[torch.nn.Module],
    kept: Sequence[Trace],
    traces: Sequence[Trace],
    kernels: Sequence[int] | None,
) -> tuple[LayerRow, ...]:
    total_ns = sum(trace.total_ns for trace in kept)
    spent_ns = [sum(times) for times in zip(*(trace.exclusive_ns for trace in kept), strict=True)]
    runs = [sum(counts) for counts in zip(*(trace.runs for trace in kept), strict=True)]
    parameters = _own_parameters(modules)
    return tuple(
        LayerRow(
            path=name,
            type=type(modules[number]).__name__,
            calls=runs[number] / len(kept),
            exclusive_ms=spent_ns[number] / len(kept) / 1e6,
            quartiles_ms=quartiles([trace.exclusive_ns[number] / 1e6 for trace in traces]),
            share=spent_ns[number] / total_ns,
            parameters=parameters[number],
            kernels=None if kernels is None else kernels[number],
        )
        for number, name in enumerate(names)
    )


def _own_parameters(modules: Sequence[torch.nn.Module]) -> list[int]:
    seen: set[int] = set()
    counts = []
    for module in modules:
        new = {id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)}
        counts.append(sum(size for key, size in new.items() if key not in seen))
        seen |= new.keys()
    return counts


def _difference_notes(
    difference: float, tolerance: float, total_ms: float, plain_ms: float, runs: float, cost_ms: float | None
) -> Iterator[str]:
    if abs(difference) <= tolerance:
        return
    if cost_ms is None:
        why = f"an event is launched at each end of {runs:.0f} module runs, which costs most where launches do"
    else:
        why = (
            f"{runs:.0f} probes of about {cost_ms * 1e3:.1f} us each are taken off already, so the net is too small "
            "for them or the device was disturbed; measure again with more max_seconds"
        )
    yield (
        f"the modules sum to {total_ms:.4g} ms, {difference:+.0%} from the {plain_ms:.4g} ms of a call without probes "
        f"(tolerance {tolerance:.0%}): {why}"
    )


def _runs_notes(rows: Sequence[LayerRow], traces: Sequence[Trace]) -> Iterator[str]:
    idle = [row.path or row.type for row in rows if row.calls == 0 and row.parameters]
    if idle:
        shown = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
        yield f"modules with parameters that did not run: {shown}"
    if any(trace.runs != traces[0].runs for trace in traces):
        yield "not every call ran the same modules: times and runs are averages over the calls"
