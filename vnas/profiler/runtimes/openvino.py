"""OpenVINO on the CPU: the exported graph, one stream, in the precision that was asked for and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vnas.errors import UsageError
from vnas.profiler.runtimes.catalogue import library
from vnas.profiler.runtimes.exporting import bound, export
from vnas.profiler.runtimes.precision import cast
from vnas.profiler.runtimes.prepared import Loaded

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""Never left to OpenVINO, whose own choice is bf16 wherever the CPU has it."""


def load(net: Callable[..., object], inputs: tuple[object, ...], precision: str, threads: int) -> Loaded:
    """A compiled graph with fp32 weights and inputs, which OpenVINO computes in ``precision``.

    Raises:
        UsageError: this CPU does not compute in that precision.
        MeasurementError: the graph cannot be exported.
    """
    ov = library("openvino")
    net, inputs = cast(net, inputs, "fp32")
    graph, tensors = export(net, inputs)
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(graph),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        },
    )
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if chosen != HINTS[precision]:
        raise UsageError(
            f"OpenVINO computes in {chosen} where {precision} is asked for: this CPU has no {precision}; "
            "leave --precision out, or take fp32"
        )
    request = compiled.create_infer_request()
    for name, tensor in bound([port.any_name for port in compiled.inputs], tensors):
        request.set_tensor(name, ov.Tensor(tensor.numpy(), shared_memory=True))

    def call(infer: Callable[..., Any] = request.infer, kept: object = tensors) -> object:
        return infer(share_outputs=True)

    def outputs(result: Any) -> list[torch.Tensor]:
        return [torch.from_numpy(result[port].copy()) for port in compiled.outputs]

    used = compiled.get_property("INFERENCE_NUM_THREADS")
    notes = () if used == threads else (f"OpenVINO uses {used} threads, not {threads}",)
    return Loaded(call, inputs, read=outputs, on_stream=False, notes=notes)
