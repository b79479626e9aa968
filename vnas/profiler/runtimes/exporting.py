"""The ONNX graph of a module: what ONNX Runtime, OpenVINO and TensorRT take."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.numerics import tensors_of
from vnas.profiler.runtimes.failures import first_line
from vnas.profiler.runtimes.precision import copied, mapped


def export(net: Callable[..., object], inputs: tuple[object, ...]) -> tuple[bytes, list[torch.Tensor]]:
    """The graph, with its weights and for these shapes, and the input tensors in the graph's order.

    Exported by the exporter that builds on torch.export, from a copy on the CPU; graphs up to 2 GB.

    Args:
        net: a module in eval mode.
        inputs: its positional arguments, on any device.

    Returns:
        The serialised graph, and the tensors among ``inputs`` where they were, contiguous.

    Raises:
        UsageError: not a module, or one in training mode.
        MeasurementError: it cannot be exported.
    """
    if not isinstance(net, torch.nn.Module):
        raise UsageError("only a torch.nn.Module can be exported; wrap the callable in one, or use a runtime of torch")
    if net.training:
        raise UsageError("the module is in training mode, which is not what is exported; call .eval() first")
    flat = [tensor.contiguous() for tensor in tensors_of(inputs)]
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            on_cpu = mapped(inputs, lambda tensor: tensor.cpu().contiguous().clone())
            program = torch.onnx.export(copied(net, device="cpu"), on_cpu, dynamo=True, verbose=False)
            assert program is not None
            return program.model_proto.SerializeToString(), flat
    except Exception as error:
        raise MeasurementError(f"export to ONNX: {first_line(error)}") from error


def bound(names: list[str], tensors: list[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """The graph's inputs with the tensors they get.

    Raises:
        MeasurementError: there are more or fewer inputs than tensors.
    """
    if len(names) != len(tensors):
        raise MeasurementError(
            f"the exported graph has {len(names)} inputs ({', '.join(names)}), for {len(tensors)} tensors"
        )
    return list(zip(names, tensors, strict=True))
