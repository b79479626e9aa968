"""Which device: from ``--gpu`` or ``--device`` to a torch.device that exists, or an error with those there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vnas.errors import DeviceError, MeasurementError, UsageError
from vnas.profiler.environment import cpu_kind

if TYPE_CHECKING:
    import torch


def resolve_device(gpu: int | str | None = None, device: str | torch.device | None = None) -> torch.device:
    """The device to use: the GPU or device asked for, else the first GPU, else the CPU.

    Args:
        gpu: index of a GPU, as torch counts them.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: both were given.
        DeviceError: there is no such device; the message lists those there are.
    """
    import torch

    if gpu is not None and device is not None:
        raise UsageError(f"--gpu {gpu} and --device {device} were both given; give one of them")
    if gpu is not None:
        index = str(gpu).strip()
        if isinstance(gpu, bool) or not re.fullmatch(r"[0-9]{1,4}", index):
            raise DeviceError(_no_such(f"--gpu {gpu}: a GPU is named by its index, e.g. --gpu 0"))
        return _existing_gpu(int(index), f"--gpu {gpu}")
    if device is not None:
        name = str(device).strip()
        if name == "cpu":
            return torch.device("cpu")
        found = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", name)
        if found is None:
            raise DeviceError(_no_such(f"device {name!r} is not known; allowed are cpu, cuda and cuda:N"))
        return _existing_gpu(int(found.group(1) or 0), f"device {name}")
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def describe_devices() -> str:
    """The devices there are, one a line; where there is no GPU, why torch sees none."""
    import torch

    lines = [f"cpu    {cpu_kind()}, {torch.get_num_threads()} torch threads"]
    if not torch.cuda.is_available():
        return "\n".join([*lines, f"no GPU: {_why_no_gpu()}"])
    for index in range(torch.cuda.device_count()):
        name, uuid = torch.cuda.get_device_name(index), cuda_uuid(index)
        lines += [f"gpu {index}  {name}  {uuid}"]
    return "\n".join(lines)


def cuda_uuid(index: int) -> str:
    """UUID of a GPU as CUDA gives it, without NVML's ``GPU-`` or ``MIG-``."""
    import torch

    return str(torch.cuda.get_device_properties(index).uuid)


def check_places(callable: object, inputs: Sequence[object], place: torch.device) -> None:
    """Tensors among the inputs, and those of a module, must be where it is measured.

    Raises:
        MeasurementError: one is not; says which, and what to do.
    """
    import torch

    tensors = [(f"input {number}", value, "input") for number, value in enumerate(inputs)]
    if isinstance(callable, torch.nn.Module):
        named = (*callable.named_parameters(), *callable.named_buffers())
        tensors += [(f"{name} of the module", tensor, "module") for name, tensor in named]
    for what, tensor, whole in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.device != place:
            raise MeasurementError(
                f"check: {what} is on {tensor.device}, the measurement on {place}; pass {whole}.to({str(place)!r})"
            )


def _existing_gpu(index: int, asked: str) -> torch.device:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise DeviceError(_no_such(f"{asked}: there is no such GPU"))
    return torch.device("cuda", index)


def _no_such(complaint: str) -> str:
    devices = "\n".join(f"  {line}" for line in describe_devices().splitlines())
    return f"{complaint}. The devices there are:\n{devices}\nType --device cpu to use the CPU."


def _why_no_gpu() -> str:
    import torch

    if torch.version.cuda is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no NVIDIA driver with a visible GPU"
