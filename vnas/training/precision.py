"""Mixed precision: what runs in it, and how a step is taken under it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vnas.training.speed.options import Speed


class Precision:
    """Autocast to bfloat16, or to float16 with scaled gradients; nothing where mixed precision is off.

    A step is as many calls of :meth:`backward` as the batch has parts, then one of :meth:`step`.
    """

    def __init__(self, speed: Speed, device: torch.device) -> None:
        self._device = device.type
        self._dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[speed.amp]
        self._scaler = torch.amp.GradScaler(device.type) if self._dtype is torch.float16 else None

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, scaled where that is needed, to the parameters' own."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None) -> None:
        """Clip the gradients to a norm, step, and clear them."""
        if clip is not None:
            if self._scaler is not None:
                self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any] | None:
        """Of the gradients' scale, for a checkpoint; None where they are not scaled."""
        return None if self._scaler is None else self._scaler.state_dict()

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what :meth:`state` gave."""
        if self._scaler is not None and state is not None:
            self._scaler.load_state_dict(dict(state))
