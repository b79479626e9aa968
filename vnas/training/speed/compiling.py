"""A net compiled by ``torch.compile``, or as it is where that fails."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vnas.errors import MissingExtraError
from vnas.profiler.runtimes.catalogue import check
from vnas.profiler.runtimes.failures import first_line

BACKEND = "inductor"


class Compiled:
    """What a training step calls instead of its net.

    It is compiled at the first call, and again for a first batch of another size; lambda is a buffer that the compiled
    code reads, so that another lambda costs nothing. The net itself stays as it is: it can be evaluated, saved and
    fused, and its weights are those that the compiled code trains. Compiled code is kept by the code object of what is
    compiled, eight versions at most; each net is called from one of its own, or the ninth candidate of a search would
    silently run as it is.

    Args:
        net: in training; it may be wrapped, for example in DistributedDataParallel.
        notes: gets a line where compiling fails.
    """

    def __init__(self, net: Callable[[Tensor], Tensor], notes: list[str]) -> None:
        def call(images: Tensor) -> Tensor:
            return net(images)

        own = types.FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)
        self._net = net
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(own, backend=BACKEND)
        self._known: set[torch.Size] = set()
        self._notes = notes

    @property
    def works(self) -> bool:
        """Whether compiling has not failed so far."""
        return self._compiled is not None

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K)."""
        if self._compiled is None:
            return self._net(images)
        if images.shape in self._known:
            return self._compiled(images)
        from torch._dynamo.exc import TorchDynamoException

        try:
            with _backward_too():
                logits = self._compiled(images)
        except TorchDynamoException as error:
            self._notes.append(f"torch.compile failed ({first_line(error)}): the net is trained as it is, uncompiled")
            self._compiled = None
        else:
            self._known.add(images.shape)
            return logits
        # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
        return self._net(images)


def why_not(device: torch.device) -> str | None:
    """What torch.compile lacks on a device, in words; None where it lacks nothing that can be seen beforehand."""
    try:
        check("compile", None, device.type)
    except MissingExtraError as error:
        return str(error)
    return None


@contextmanager
def _backward_too() -> Iterator[None]:
    """Compile the backward pass with the forward pass, so that it fails where something can still be done."""
    from torch._functorch import config

    # Without this setting, which is torch's own and not in every version, it fails at the first backward() instead.
    if not hasattr(config, "force_non_lazy_backward_lowering"):
        yield
        return
    with config.patch(force_non_lazy_backward_lowering=True):
        yield
