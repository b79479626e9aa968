"""TensorRT: an engine of the exported graph, on torch's current stream and in torch's memory.

Strongly typed: the graph is exported in fp16 or bf16 and computed as written, since TensorRT 11 has no flags for
them any more, and those of TensorRT 10 only permit what they name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vnas.errors import MeasurementError
from vnas.profiler.runtimes.catalogue import library
from vnas.profiler.runtimes.exporting import bound, export
from vnas.profiler.runtimes.prepared import Loaded


def load(net: Callable[..., object], inputs: tuple[object, ...], device: torch.device, precision: str) -> Loaded:
    """An engine built for these shapes on this GPU.

    Raises:
        MeasurementError: the graph cannot be exported, parsed or built.
    """
    trt = library("tensorrt")
    graph, tensors = export(net, inputs)
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(_plan(trt, logger, graph, precision))
    if engine is None:
        raise MeasurementError("the engine cannot be loaded; see TensorRT's log above")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    ins = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    for name, tensor in bound(ins, tensors):
        context.set_tensor_address(name, tensor.data_ptr())
    outputs = []
    for name in (name for name in names if name not in ins):
        dtype = getattr(torch, _TORCH_NAMES[engine.get_tensor_dtype(name).name])
        outputs.append(torch.empty(tuple(engine.get_tensor_shape(name)), dtype=dtype, device=device))
        context.set_tensor_address(name, outputs[-1].data_ptr())
    stream = torch.cuda.current_stream(device).cuda_stream

    # The engine and the inputs live as long as the call does: TensorRT holds addresses, not tensors.
    def call(execute: Callable[[int], bool] = context.execute_async_v3, kept: object = (engine, tensors)) -> object:
        if not execute(stream):
            raise MeasurementError("TensorRT did not run the engine; see its log above")
        return outputs

    return Loaded(call, inputs)


_TORCH_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def _plan(trt: Any, logger: Any, graph: bytes, precision: str) -> Any:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise MeasurementError(f"TensorRT cannot parse the exported graph: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    if precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise MeasurementError("TensorRT cannot build an engine of the exported graph; see its log above")
    return plan
