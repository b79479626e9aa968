"""What a runtime makes of a callable."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vnas.profiler.numerics import NumericalError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prepared:
    """A callable that is ready to be timed.

    Attributes:
        call: one inference, with its inputs bound.
        inputs: as it is called with.
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16``, another data type's name, or None if unknown.
        layout: of the first 4-D input: ``contiguous``, ``channels_last`` or ``strided``.
        error: against eager fp32; None where nothing was changed, or where a note says why there is none.
        on_stream: the work is on torch's current CUDA stream, so that CUDA events see it.
        active: global switches that must hold around every call; cheap to enter.
        capturable: a CUDA graph of the call makes sense.
        notes: what is worth knowing about how it was made.
    """

    call: Callable[[], object]
    inputs: tuple[object, ...]
    precision: str | None
    layout: str | None
    error: NumericalError | None = None
    on_stream: bool = True
    active: Callable[[], AbstractContextManager[None]] = nullcontext
    capturable: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """What one runtime gives back; ``prepare`` adds what all have in common.

    Attributes:
        call: one inference; gives what ``read`` takes.
        inputs: as it is called with.
        read: the output tensors, in the order of the callable's own; None where ``call`` gives the callable's output.
        on_stream: see ``Prepared``.
        capturable: see ``Prepared``.
        notes: see ``Prepared``.
    """

    call: Callable[[], object]
    inputs: tuple[object, ...]
    read: Callable[[object], list[torch.Tensor]] | None = None
    on_stream: bool = True
    capturable: bool = False
    notes: tuple[str, ...] = ()
