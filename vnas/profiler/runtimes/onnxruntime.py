"""ONNX Runtime: the exported graph in one session, inputs and outputs bound once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vnas.errors import MeasurementError, MissingExtraError
from vnas.profiler.runtimes.catalogue import library
from vnas.profiler.runtimes.exporting import bound, export
from vnas.profiler.runtimes.prepared import Loaded

_ERRORS_ALONE = 3
"""Log severity: its warnings are about graphs that it makes the best of."""


def load(
    net: Callable[..., object], inputs: tuple[object, ...], device: torch.device, precision: str, threads: int
) -> Loaded:
    """A session with one pool of ``threads`` threads, or on the GPU.

    On the GPU it works on a stream of its own and returns when that is done: only the host's time is its latency.

    Raises:
        MissingExtraError: the installed package does not do GPUs.
        MeasurementError: the graph cannot be exported or loaded.
    """
    ort = library("onnxruntime")
    provider = _provider(ort, device, precision)
    graph, tensors = export(net, inputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    session = ort.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider[0]:
        raise MeasurementError(
            f"{provider[0]} did not load, {session.get_providers()[0]} took its place; see its log above"
        )
    binding = session.io_binding()
    for name, tensor in bound([node.name for node in session.get_inputs()], tensors):
        binding.bind_input(
            name, device.type, device.index or 0, _numpy_dtype(tensor), tuple(tensor.shape), tensor.data_ptr()
        )
    for node in session.get_outputs():
        binding.bind_output(node.name, device.type, device.index or 0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # the inputs are there before another stream reads them

    def call(run: Callable[[Any], None] = session.run_with_iobinding, kept: object = tensors) -> object:
        run(binding)
        return binding

    return Loaded(call, inputs, read=_outputs, on_stream=False)


def _provider(ort: Any, device: torch.device, precision: str) -> tuple[str, dict[str, str]]:
    if device.type == "cpu":
        return "CPUExecutionProvider", {}
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise MissingExtraError(
            f"the installed onnxruntime {ort.__version__} has no CUDAExecutionProvider; "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    return "CUDAExecutionProvider", {
        "device_id": str(device.index or 0),
        "use_tf32": "1" if precision == "tf32" else "0",
    }


def _numpy_dtype(tensor: torch.Tensor) -> Any:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype


def _outputs(binding: Any) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in binding.copy_outputs_to_cpu()]
