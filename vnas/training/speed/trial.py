"""Training steps of a copy of a net, to be timed."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet
from vnas.training.optim import make_loss, make_optimizer, set_learning_rate
from vnas.training.precision import Precision
from vnas.training.speed.compiling import Compiled
from vnas.training.speed.options import Speed


class Trial:
    """Whole steps (forward, loss, backward, clipping, optimiser) at a learning rate of 0, on one batch again and again.

    The net is rebuilt and not copied, so that the original's hooks do not notice. Draws from the global random streams.

    Args:
        net: stays as it is.
        config: of optimiser and loss.
        speed: of the steps.
        device: where.
        images: (B, C, S, S), on the device.
        labels: (B,), likewise.

    Attributes:
        notes: that compiling failed, and why.
    """

    def __init__(
        self,
        net: VanillaNet,
        config: TrainingConfig,
        speed: Speed,
        device: torch.device,
        images: Tensor,
        labels: Tensor,
    ) -> None:
        layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        copy = VanillaNet(net.architecture, merged=net.merged, device=device, dtype=next(net.parameters()).dtype)
        copy.load_state_dict(net.state_dict())
        self._net = copy.to(memory_format=layout).train()
        self._device, self._clip = device, config.clip_grad
        self._images = images.contiguous(memory_format=layout)
        mixed = config.mixup > 0.0 or config.cutmix > 0.0
        self._labels = F.one_hot(labels, net.architecture.num_classes).to(images.dtype) if mixed else labels
        self._loss = make_loss(config)
        self._optimizer = make_optimizer(self._net, config)
        # The same kernels, and weights that cannot grow into something that is no number.
        set_learning_rate(self._optimizer, 0.0)
        self._precision = Precision(speed, device)
        if (scale := self._precision.state()) is not None:
            # A scale that is too large at first would skip steps, which are quick then.
            self._precision.load_state({**scale, "scale": 1.0})
        self.notes: list[str] = []
        self._forward = Compiled(self._net, self.notes) if speed.compile else self._net

    def __call__(self, steps: int) -> float:
        """Take so many steps; returns the seconds that all of them took together."""
        self._wait()
        began = time.perf_counter()
        for _ in range(steps):
            with self._precision.autocast():
                loss = self._loss(self._forward(self._images), self._labels)
            self._precision.backward(loss)
            self._precision.step(self._net, self._optimizer, self._clip)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
