"""torch itself: eager, channels_last, a CUDA graph, torch.compile."""

from __future__ import annotations

import functools
import time
import types
from collections import Counter
from collections.abc import Callable, Mapping

import torch

from vnas.errors import MeasurementError
from vnas.profiler.cuda import capture_graph
from vnas.profiler.numerics import tensors_of
from vnas.profiler.runtimes.catalogue import no_compiler
from vnas.profiler.runtimes.failures import causes, first_line
from vnas.profiler.runtimes.precision import copied, mapped
from vnas.profiler.runtimes.prepared import Loaded

COMPILE_WARM_UP = 3
"""Calls after compiling: max-autotune records its CUDA graph in the second."""

MODES = {"compile": "default", "compile_max_autotune": "max-autotune"}


def eager(net: Callable[..., object], inputs: tuple[object, ...]) -> Loaded:
    """As it is."""
    return Loaded(functools.partial(net, *inputs), inputs, capturable=True)


def channels_last(net: Callable[..., object], inputs: tuple[object, ...]) -> Loaded:
    """A copy with its 4-D weights and inputs in channels_last."""
    notes: tuple[str, ...] = ()
    if isinstance(net, torch.nn.Module):
        net = copied(net, memory_format=torch.channels_last)
    else:
        notes = ("channels_last: of the inputs alone, since the callable is no module whose weights could follow",)
    if not any(tensor.dim() == 4 for tensor in tensors_of(inputs)):
        notes += ("channels_last: no input has four dimensions",)
    moved = mapped(inputs, _channels_last)
    return Loaded(functools.partial(net, *moved), moved, capturable=True, notes=notes)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def cuda_graph(net: Callable[..., object], inputs: tuple[object, ...], device: torch.device) -> Loaded:
    """The kernels of one call, replayed as one graph over inputs of its own.

    Raises:
        MeasurementError: the call cannot be captured.
    """
    static = mapped(inputs, torch.clone)
    outputs: list[object] = []

    def keeping() -> None:
        outputs[:] = [net(*static)]

    try:
        replay = capture_graph(device, keeping)
    except Exception as error:
        raise MeasurementError(f"the call cannot be captured: {first_line(error)}") from error

    def call() -> object:
        replay()
        return outputs[0]

    return Loaded(call, static)


def compiled(net: Callable[..., object], inputs: tuple[object, ...], runtime: str) -> Loaded:
    """torch.compile for these shapes, compiled and called here.

    The compiled code is kept by the code object of what is compiled; after eight nets of one class torch would run
    the ninth eagerly, with a warning on a log. So each net is called from a code object of its own, and that limit
    is an error.

    Raises:
        MissingExtraError: there is no C++ compiler.
        MeasurementError: it does not compile.
    """
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    def outer(*arguments: object) -> object:
        return net(*arguments)

    own = types.FunctionType(outer.__code__.replace(), outer.__globals__, "call", None, outer.__closure__)
    before = _graphs(counters)
    start = time.perf_counter()
    try:
        with config.patch(fail_on_recompile_limit_hit=True):
            function = torch.compile(own, dynamic=False, mode=MODES[runtime])
            for _ in range(COMPILE_WARM_UP):
                function(*inputs)
    except Exception as error:
        if any(type(cause).__name__ == "InvalidCxxCompiler" for cause in causes(error)):
            raise no_compiler("working one") from error
        raise MeasurementError(f"it does not compile: {first_line(error)}") from error
    seconds = time.perf_counter() - start
    graphs, breaks = (now - then for now, then in zip(_graphs(counters), before, strict=True))
    notes = [f"torch.compile took {seconds:.1f} s"]
    if breaks:
        notes.append("torch.compile did not get the call into one graph; Python runs between its graphs")
    elif not graphs:
        notes.append("torch.compile found nothing to compile")
    return Loaded(functools.partial(function, *inputs), inputs, notes=tuple(notes))


def _graphs(counters: Mapping[str, Counter[str]]) -> tuple[int, int]:
    """Graphs compiled in this process, and breaks between graphs that were met."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
