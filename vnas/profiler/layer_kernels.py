"""How many kernels each module launches: counted by torch.profiler in one call, apart from any timing."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from vnas.profiler.layer_timing import ROOT, probed
from vnas.profiler.timers import Call

MARK = "vnas.module:"
"""Start of the names of the ranges around the modules; their numbers follow."""

NO_KERNELS = (
    "kernels are not counted: torch.profiler saw none, as where CUPTI is missing, may not be used, or is in use by "
    "another profiler"
)


def count_kernels(
    modules: Sequence[torch.nn.Module], call: Call, finish: Call, record: Callable[[Call], Iterable[Any]] | None = None
) -> tuple[int, ...] | str:
    """Kernels of each module in one call, those of the modules that it calls left out; or why there are none.

    A kernel belongs to the innermost module whose ``forward`` launched it. Copies and fills by the driver are no
    kernels.

    Args:
        modules: all modules, the called one first.
        call: calls the first of them.
        finish: waits until the device is done.
        record: torch.profiler's events of a call.
    """
    ranges: list[Any] = []

    def enter(number: int) -> None:
        ranges.append(torch.autograd.profiler.record_function(f"{MARK}{number}"))
        ranges[-1].__enter__()

    def leave(number: int) -> None:
        if ranges:
            ranges.pop().__exit__(None, None, None)

    def marked() -> None:
        with probed(modules, enter, leave):
            call()
        finish()

    try:
        events = list((recorded if record is None else record)(marked))
    except RuntimeError as error:
        return f"kernels are not counted: torch.profiler says {str(error).partition(chr(10))[0]}"
    counts = kernels_by_module(events)
    return tuple(counts[number] for number in range(len(modules))) if counts else NO_KERNELS


def kernels_by_module(events: Sequence[Any]) -> Counter[int]:
    """Kernels by the number of the module whose range is the innermost around their launch.

    Args:
        events: as ``torch.profiler.profile.events()`` gives them.
    """
    # The device's picture of a range can be listed like a kernel of that range.
    ranges = {event.name for event in events if getattr(event, "is_user_annotation", False)}
    counts: Counter[int] = Counter()
    for event in events:
        kernels = [
            kernel
            for kernel in event.kernels
            if kernel.name not in ranges and not kernel.name.startswith((MARK, "Memcpy", "Memset"))
        ]
        if kernels:
            counts[_module_around(event)] += len(kernels)
    return counts


def recorded(call: Call) -> Iterable[Any]:
    """torch.profiler's events of one call, host and GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler, about itself
        with torch.profiler.profile(activities=activities) as profile:
            call()
        return list(profile.events() or ())


def _module_around(event: Any) -> int:
    while event is not None:
        if event.name.startswith(MARK):
            return int(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return ROOT
