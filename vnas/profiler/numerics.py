"""How far an answer is from the reference: printed beside every speed, so that no wrong answer is called fast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vnas.errors import MeasurementError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NumericalError:
    """Difference between a runtime's output and that of the same callable in eager fp32 (TF32 off), same inputs.

    Attributes:
        max_relative: ``max |y - r| / max |r|``, r the reference.
        rms_relative: ``||y - r|| / ||r||``.
    """

    max_relative: float
    rms_relative: float


def compare(output: object, reference: object) -> NumericalError:
    """The numerical error of an output, in float64, over all its tensors at once.

    Args:
        output: a tensor, or tuples, lists and mappings of them.
        reference: likewise, with the same shapes in the same order, and usable (``unusable``).

    Raises:
        MeasurementError: another number of tensors, another shape, or a value that is not finite.
    """
    mine, right = tensors_of(output), tensors_of(reference)
    shapes, expected = [tuple(tensor.shape) for tensor in mine], [tuple(tensor.shape) for tensor in right]
    if shapes != expected:
        raise MeasurementError(f"the output has shapes {shapes}, that of eager fp32 {expected}")
    y, r = _flat(mine), _flat(right)
    broken = int((~y.isfinite()).sum())
    if broken:
        raise MeasurementError(
            f"{broken} of {y.numel()} values of the output are not finite, while those of eager fp32 are"
        )
    difference = y - r
    return NumericalError(
        max_relative=float(difference.abs().max() / r.abs().max()),
        rms_relative=float(difference.norm() / r.norm()),
    )


def unusable(reference: object) -> str | None:
    """Why an output is no reference; None where it is one."""
    tensors = tensors_of(reference)
    if not tensors or not any(tensor.numel() for tensor in tensors):
        return "the callable returns no tensor"
    norm = float(_flat(tensors).norm())
    if not math.isfinite(norm):
        return "the output of eager fp32 is not finite itself"
    return "the output of eager fp32 is zero everywhere" if norm == 0 else None


def tensors_of(value: object) -> list[torch.Tensor]:
    """All tensors in a value, in order, through tuples, lists and mappings; anything else is left out."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_of(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(N,) in float64 on the CPU, all tensors in a row."""
    import torch

    parts = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
    return torch.cat([part.detach().cpu().double().flatten() for part in parts])
