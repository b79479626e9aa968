"""Mixed precision on a GPU: what runs in it, and how a step is taken under it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from vnas.config import TrainingConfig


class Precision:
    """Autocast: bfloat16 where the GPU has it, else float16 with scaled gradients; nothing on a CPU."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self._dtype: torch.dtype | None = None
        if config.amp and device.type == "cuda":
            self._dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        self._scaler = torch.amp.GradScaler("cuda") if self._dtype is torch.float16 else None

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        return nullcontext() if self._dtype is None else torch.autocast("cuda", self._dtype)

    def step(self, loss: Tensor, net: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None) -> None:
        """Backward, clip to a norm, step."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
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
