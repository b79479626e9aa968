"""Precisions of torch: what a callable computes in as it is, casts, and the TF32 switches."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from vnas.errors import MeasurementError, UsageError
from vnas.profiler.numerics import tensors_of

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_LABELS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def label(callable: Callable[..., object], inputs: tuple[object, ...], device: torch.device) -> str | None:
    """What it computes in as it is: by its first floating input, else its first floating parameter."""
    dtype = floating_dtype(callable, inputs)
    if dtype is None:
        return None
    if dtype == torch.float32 and device.type == "cuda" and tf32_is_on() and has_tf32(device):
        return "tf32"
    return _LABELS.get(dtype, str(dtype).removeprefix("torch."))


def floating_dtype(callable: Callable[..., object], inputs: tuple[object, ...]) -> torch.dtype | None:
    """Of the first floating input, else of the first floating parameter; None without either."""
    parameters = callable.parameters() if isinstance(callable, torch.nn.Module) else iter(())
    for tensor in (*tensors_of(inputs), *parameters):
        if tensor.is_floating_point():
            return tensor.dtype
    return None


def cast(
    callable: Callable[..., object], inputs: tuple[object, ...], precision: str
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The callable and its inputs in a precision: copies, unless nothing has to change.

    Raises:
        UsageError: what is to be changed is not a module.
        MeasurementError: the module cannot be copied.
    """
    dtype = DTYPES[precision]
    floating = list(_floating(callable, inputs))
    right = all(tensor.dtype == dtype for tensor in floating)
    if isinstance(callable, torch.nn.Module):
        return (callable, inputs) if right else (copied(callable, dtype=dtype), mapped(inputs, _to(dtype)))
    if right and (floating or dtype == torch.float32):
        return callable, inputs
    raise UsageError(
        f"precision {precision}: the callable is no torch.nn.Module, so that its weights cannot be cast; "
        "pass a module, or cast weights and inputs yourself and leave the precision out"
    )


def copied(module: torch.nn.Module, **to: Any) -> torch.nn.Module:
    """A deep copy, of ordinary tensors in inference mode too; ``to`` goes to the copy's ``to``.

    Raises:
        MeasurementError: the module cannot be copied.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            return copy.deepcopy(module).to(**to)
    except Exception as error:
        raise MeasurementError(
            f"the module cannot be copied, and the caller's own is not changed: {type(error).__name__}: {error}"
        ) from error


def mapped(value: tuple[object, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[object, ...]:
    """The same structure with its tensors changed, as ordinary tensors."""
    with torch.inference_mode(False), torch.no_grad():
        return tuple(_mapped(item, change) for item in value)


def _mapped(value: object, change: Callable[[torch.Tensor], torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        kind: Any = type(value)
        items = [_mapped(item, change) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    return value


def _to(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor


def _floating(callable: Callable[..., object], inputs: tuple[object, ...]) -> Iterator[torch.Tensor]:
    own: list[torch.Tensor] = []
    if isinstance(callable, torch.nn.Module):
        own = [*callable.parameters(), *callable.buffers()]
    return (tensor for tensor in (*tensors_of(inputs), *own) if tensor.is_floating_point())


def tf32_is_on() -> bool:
    """In convolutions or matrix products on a GPU. torch's default has it on in convolutions."""
    conv: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" in (torch.backends.cuda.matmul.fp32_precision, conv)


def has_tf32(device: torch.device) -> bool:
    """Ampere and later."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def switches(precision: str | None) -> Callable[[], AbstractContextManager[None]]:
    """What must hold while a call in this precision is made: fp32 is TF32 off, tf32 is TF32 on."""
    if precision not in ("fp32", "tf32"):
        return nullcontext
    return lambda: tf32(precision == "tf32")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """TF32 in matrix products and convolutions on, or off (which is fp32 on the CPU too), then as it was.

    torch keeps an older and a newer setting of the same thing and raises where it reads the older one and they
    differ; torch.compile does read it (pytorch issues 166387 and 196728). So both are set.
    """
    backends = torch.backends
    cudnn: Any = backends.cudnn
    mkldnn: Any = backends.mkldnn
    newer: tuple[Any, ...] = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul)
    before = [setting.fp32_precision for setting in newer]
    older = _older()
    _set_older("high" if allowed else "highest", allowed)
    for setting in newer[:3]:
        setting.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        _set_older(*older)
        for setting, value in zip(newer, before, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value


def _older() -> tuple[str | None, bool | None]:
    """None where torch refuses to say, because the newer setting says something else."""
    matmul, convolution = None, None
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolution = torch.backends.cudnn.allow_tf32
    return matmul, convolution


def _set_older(matmul: str | None, convolution: bool | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 asks for the newer setting, which is set as well
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            torch.backends.cudnn.allow_tf32 = convolution
