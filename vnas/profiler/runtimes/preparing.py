"""``prepare``: a callable in a runtime and a precision, and how far its answer is from eager fp32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from vnas.errors import MeasurementError, UsageError, VnasError
from vnas.profiler.numerics import NumericalError, compare, tensors_of, unusable
from vnas.profiler.runtimes.catalogue import COMPILED, EXPORTED, PRECISIONS, check
from vnas.profiler.runtimes.prepared import Loaded, Prepared

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

WRONG_ANSWER = 0.1
"""rms error above which a note says that the answers differ. Nets with fresh weights are at 0.02 in bf16."""


def prepare(
    callable: Callable[..., object],
    inputs: tuple[object, ...],
    *,
    device: str | torch.device,
    runtime: str,
    precision: str | None,
    threads: int | None = None,
) -> Prepared:
    """Make a callable ready to be timed, and compare its output with that of eager fp32.

    The caller's module is never changed: what has to be cast or laid out otherwise is a copy. Enter it under the
    settings that will hold while it is timed (threads, current device): compiled code is made for them.

    Args:
        callable: a module in eval mode, or any other callable where the runtime is one of torch's.
        inputs: its positional arguments, on ``device``.
        device: with its index where it is a GPU.
        runtime: one of ``RUNTIMES``.
        precision: one of ``PRECISIONS``; None leaves it as the callable is. ``fp32`` and ``tf32`` set TF32 in
            matrix products and convolutions off and on.
        threads: of ONNX Runtime and OpenVINO on the CPU; by default those of torch.

    Raises:
        UsageError: unknown names, a combination that does not exist, or a callable that cannot be cast or exported.
        MissingExtraError: a package or a compiler is not installed.
        MeasurementError: the runtime failed, or its output is not finite or of another shape.
    """
    import torch

    from vnas.profiler.runtimes.precision import cast, has_tf32, label, switches

    place = torch.device(device)
    check(runtime, precision, place.type)
    computed = precision or label(callable, inputs, place)
    if precision == "tf32" and not has_tf32(place):
        raise UsageError("precision tf32: this GPU has none (Ampere and later have); take fp32")
    if runtime in EXPORTED:
        if computed not in PRECISIONS:
            raise UsageError(f"runtime {runtime} computes in {', '.join(PRECISIONS)}; this module is {computed}")
        check(runtime, computed, place.type)
    active = switches(precision)
    what = f"{runtime} {computed or ''}".strip()
    notes: tuple[str, ...] = ()
    with torch.inference_mode(), active():
        net, given = callable, inputs
        if precision is not None and runtime != "openvino":  # which casts by itself
            net, given = cast(callable, inputs, precision)
        load = functools.partial(_load, net, given, place, runtime, computed, threads or torch.get_num_threads())
        if runtime == "eager" and net is callable and computed not in ("tf32", "fp16", "bf16"):
            loaded, error = load(), None
        else:
            reference, notes = _reference(callable, inputs, computed, what)
            loaded = _step(load, what, "load")
            error = _error(loaded, reference, what)
    if error is not None and error.rms_relative > WRONG_ANSWER:
        notes += (f"{what}: the answer is {error.rms_relative:.0%} (rms) away from that of eager fp32",)
    return Prepared(
        call=loaded.call,
        inputs=loaded.inputs,
        precision=computed,
        layout=_layout(loaded.inputs, runtime),
        error=error,
        on_stream=loaded.on_stream,
        active=active,
        capturable=loaded.capturable,
        notes=(*loaded.notes, *notes),
    )


def _reference(
    callable: Callable[..., object], inputs: tuple[object, ...], computed: str | None, what: str
) -> tuple[list[torch.Tensor] | None, tuple[str, ...]]:
    """The output in eager fp32, TF32 off, on the CPU; or None and a note that says why not."""
    import torch

    from vnas.profiler.runtimes.precision import cast, mapped, tf32

    if isinstance(callable, torch.nn.Module) and callable.training:
        return None, ("no numerical error: in training mode the module's own answers differ from call to call",)
    try:
        if computed in PRECISIONS:
            callable, inputs = cast(callable, inputs, "fp32")
    except UsageError:
        return None, ("no numerical error: the callable is no module, so that it has no fp32 copy",)
    own = mapped(inputs, torch.clone)
    with tf32(False):
        output = _step(lambda: callable(*own), what, "reference in eager fp32")
    tensors = [tensor.detach().cpu().clone() for tensor in tensors_of(output)]
    reason = unusable(tensors)
    return (tensors, ()) if reason is None else (None, (f"no numerical error: {reason}",))


def _error(loaded: Loaded, reference: list[torch.Tensor] | None, what: str) -> NumericalError | None:
    if reference is None:
        return None
    result = _step(loaded.call, what, "first call")
    output = result if loaded.read is None else loaded.read(result)
    return _step(lambda: compare(output, reference), what, "comparison")


def _step(step: Callable[[], T], what: str, phase: str) -> T:
    from vnas.profiler.runtimes.failures import first_line

    try:
        return step()
    except MeasurementError as error:
        raise MeasurementError(f"{what}: {error}") from error
    except VnasError:
        raise
    except Exception as error:
        raise MeasurementError(f"{what}: {phase}: {first_line(error)}") from error


def _layout(inputs: tuple[object, ...], runtime: str) -> str | None:
    import torch

    for tensor in tensors_of(inputs):
        if tensor.dim() == 4:
            if runtime != "channels_last" and tensor.is_contiguous():
                return "contiguous"
            return "channels_last" if tensor.is_contiguous(memory_format=torch.channels_last) else "strided"
    return None


def _load(
    net: Callable[..., object],
    inputs: tuple[object, ...],
    device: torch.device,
    runtime: str,
    computed: str | None,
    threads: int,
) -> Loaded:
    """The runtime's own module does it; only that one is imported."""
    from vnas.profiler.runtimes import torch_runtimes

    if runtime == "eager":
        return torch_runtimes.eager(net, inputs)
    if runtime == "channels_last":
        return torch_runtimes.channels_last(net, inputs)
    if runtime == "cuda_graph":
        return torch_runtimes.cuda_graph(net, inputs, device)
    if runtime in COMPILED:
        return torch_runtimes.compiled(net, inputs, runtime)
    assert computed is not None
    if runtime == "onnxruntime":
        from vnas.profiler.runtimes import onnxruntime

        return onnxruntime.load(net, inputs, device, computed, threads)
    if runtime == "openvino":
        from vnas.profiler.runtimes import openvino

        return openvino.load(net, inputs, computed, threads)
    from vnas.profiler.runtimes import tensorrt

    return tensorrt.load(net, inputs, device, computed)
