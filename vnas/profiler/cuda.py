"""The instruments of a GPU: all that is torch.cuda's alone. What they are used for is in ``protocol``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack

import torch

from vnas.profiler import energy
from vnas.profiler.devices import cuda_uuid
from vnas.profiler.nvml import open_gpu
from vnas.profiler.protocol import Instruments
from vnas.profiler.timers import Call, CudaEventTimer, EnqueueTimer, Event, HostTimer

GRAPH_WARM_UP = 3
"""Calls on the side stream before capture, as torch.cuda.graph's documentation asks for."""


def cuda_instruments(
    device: torch.device,
    held: ExitStack,
    *,
    on_stream: bool = True,
    capturable: bool = True,
    energy_seconds: float = 0.0,
) -> Instruments:
    """Timers, graph capture, telemetry and energy of one GPU.

    Args:
        device: with its index.
        held: closes NVML when the measurement is over.
        on_stream: the call's work is on torch's current stream, so that events see it; else the host's end-to-end
            time is the number.
        capturable: a graph of the call makes sense.
        energy_seconds: window over which energy is measured; 0 leaves it out.
    """
    synchronize = functools.partial(torch.cuda.synchronize, device)
    gpu = held.enter_context(open_gpu(cuda_uuid(device.index)))
    measure_energy: Callable[[Call], energy.Energy | str] | None = None
    if energy_seconds:
        measure_energy = functools.partial(
            energy.measure_energy, finish=synchronize, counter=gpu.energy_counter(), window_seconds=energy_seconds
        )
    if not on_stream:
        return Instruments(HostTimer(synchronize), synchronize, watch=gpu, energy=measure_energy)
    return Instruments(
        main=CudaEventTimer(_timing_event, torch.cuda.current_stream(device)),
        finish=synchronize,
        host=HostTimer(synchronize),
        enqueue=EnqueueTimer(synchronize),
        capture=functools.partial(capture_graph, device) if capturable else None,
        watch=gpu,
        energy=measure_energy,
    )


def capture_graph(device: torch.device, call: Call) -> Call:
    """A call that replays the kernels of ``call`` as one CUDA graph.

    A capture that fails may leave memory reserved until the process ends, so it comes after all other timings.

    Raises:
        RuntimeError: the call does something that cannot be captured, e.g. it waits for the device.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARM_UP):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


def _timing_event() -> Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
