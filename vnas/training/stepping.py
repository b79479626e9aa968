"""A net that learns: its average, its optimiser, and how one step is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from vnas.config import TrainingConfig
from vnas.errors import TrainingError
from vnas.nets import VanillaNet, merge
from vnas.profiler.runtimes.failures import memory_ran_out
from vnas.training.images.loaders import TrainingLoader
from vnas.training.images.mixing import Mixing
from vnas.training.memory import LEAST_IMAGES, Portions
from vnas.training.optim import carry_state, make_loss, make_optimizer, set_learning_rate
from vnas.training.precision import Precision
from vnas.training.result import Progress
from vnas.training.seeding import derived_seed
from vnas.training.speed.choosing import Speed
from vnas.training.speed.compiling import Compiled


@dataclass(frozen=True)
class Setting:
    """What stays as it is from a run's first step to its last, and is the same for the branches of a trunk.

    Attributes:
        config: the recipe.
        num_classes: of the data.
        seed: of the run.
        device: where the net is trained.
        speed: layout, precision and compilation.
        loader: makes a loader of training batches at the start of its order.
        progress: called after every look at the loss.
        after_look: called after that.
        wrap: stands between the net and its training step, such as DistributedDataParallel.
        divides: whether a batch that does not fit into memory may be cut.
    """

    config: TrainingConfig
    num_classes: int
    seed: int
    device: torch.device
    speed: Speed
    loader: Callable[[], TrainingLoader]
    progress: Callable[[Progress], None] | None = None
    after_look: Callable[[], None] | None = None
    wrap: Callable[[nn.Module], nn.Module] | None = None
    divides: bool = True


class Learner:
    """A net and all that a step of its training takes, but for the data.

    Args:
        net: to be trained, in place until a merge replaces it.
        setting: of the run.
        state: what :meth:`state` gave, to go on from.

    Attributes:
        net: in training; not its average.
        merged_at: step from which the pairs were trained as one convolution, or None.
        portions: into how many parts each batch is cut.
        notes: what happened on the way that changes the meaning of the numbers, in words.
    """

    def __init__(self, net: VanillaNet, setting: Setting, state: Mapping[str, Any] | None = None) -> None:
        config, device = setting.config, setting.device
        self._setting = setting
        self._layout = torch.channels_last if setting.speed.channels_last else torch.contiguous_format
        self.merged_at: int | None = None if state is None else state["merged_at"]
        if self.merged_at is not None and not net.merged:
            net = VanillaNet(net.architecture, merged=True)
        self.net = net.to(device).to(memory_format=self._layout).train()
        if state is not None:
            self.net.load_state_dict(state["net"])
        self._optimizer = make_optimizer(self.net, config)
        self._ema = self._average(self.net)
        self._loss = make_loss(config)
        self._mixing = Mixing(config, setting.num_classes) if config.mixup or config.cutmix else None
        self._mixing_random = torch.Generator().manual_seed(derived_seed(setting.seed, "mixing"))
        self._precision = Precision(setting.speed, device)
        self._lambdas: tuple[float, ...] = ()
        self.notes: list[str] = []
        self._forward = self._prepared(self.net)
        self.portions = Portions(device, least=LEAST_IMAGES if setting.divides else None, notes=self.notes)
        if state is not None:
            self._go_on_from(state)

    def anneal(self, lambdas: tuple[float, ...], step: int, *, last: bool) -> tuple[float, ...]:
        """Set lambda for a step; at 1, the pairs are merged if the recipe says so.

        Args:
            lambdas: of every pair, first to last.
            step: the step, from 0.
            last: whether it is the last one. A merge would only make its one update a fresh optimiser's first.

        Returns:
            The lambdas that hold now.
        """
        if self.merged_at is not None:
            return (1.0,)
        if lambdas != self._lambdas:  # one kernel a pair on a GPU
            self.net.set_slope(lambdas)
            self._lambdas = lambdas
        if self._setting.config.merge and min(lambdas) == 1.0 and not last:
            self._merge(step)
        return lambdas

    def take(self, images: Tensor, labels: Tensor, lr: float, step: int) -> Tensor:
        """One step on a batch. Mixing is drawn once for the batch, however many parts it is cut into.

        Args:
            images: (B, C, S, S), on the device.
            labels: (B,), likewise.
            lr: the learning rate.
            step: the step, from 0.

        Returns:
            The loss, on the device.

        Raises:
            TrainingError: out of memory, even with the smallest part of a batch.
        """
        set_learning_rate(self._optimizer, lr)
        if self._mixing is not None:
            images, labels = self._mixing(images, labels, self._mixing_random)
        images = images.contiguous(memory_format=self._layout)
        loss = self.portions.attempt(
            len(images),
            f"from step {step} on",
            lambda parts: self._gradients(images, labels, parts),
            lambda: self._optimizer.zero_grad(set_to_none=True),
        )
        try:
            self._precision.step(self.net, self._optimizer, self._setting.config.clip_grad)
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            raise TrainingError(
                f"out of memory on {self._setting.device} in the optimiser's step, whatever the batch: the net is "
                "too large for this device"
            ) from error
        if self._ema is not None:
            self._ema.update(self.net, step=step + 1)
        return loss

    def averaged(self) -> VanillaNet:
        """The net to judge: the average where there is one, with lambda copied and not averaged."""
        if self._ema is None:
            return self.net
        net = self._ema.module
        assert isinstance(net, VanillaNet)
        if self.net.num_pairs:
            net.set_slope(self.net.slopes)
        return net

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors (not copies) and plain values."""
        return {
            "net": self.net.state_dict(),
            "ema": None if self._ema is None else self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "precision": self._precision.state(),
            "mixing": self._mixing_random.get_state(),
            "merged_at": self.merged_at,
            "parts": self.portions.count,
            "notes": list(self.notes),
        }

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None and state["ema"] is not None:
            self._ema.module.load_state_dict(state["ema"])
        self._precision.load_state(state["precision"])
        self._mixing_random.set_state(state["mixing"])
        self.portions.count = state["parts"]
        self.notes[:] = state["notes"]

    def _average(self, net: VanillaNet) -> ModelEmaV3 | None:
        # The warm-up lets the average of a brief run forget the initial weights.
        decay = self._setting.config.ema_decay
        return None if decay is None else ModelEmaV3(net, decay, use_warmup=True)

    def _prepared(self, net: VanillaNet) -> Callable[[Tensor], Tensor]:
        wrapped = net if self._setting.wrap is None else self._setting.wrap(net)
        return Compiled(wrapped, self.notes) if self._setting.speed.compile else wrapped

    def _merge(self, step: int) -> None:
        merged = merge(self.net).to(memory_format=self._layout)
        optimizer = make_optimizer(merged, self._setting.config)
        carry_state(self._optimizer, self.net, optimizer, merged)
        if self._ema is not None:
            average = self._average(merged)
            assert average is not None
            average.module = merge(self.averaged()).to(memory_format=self._layout)
            self._ema = average
        self.net, self._optimizer, self.merged_at = merged, optimizer, step
        self._forward = self._prepared(merged)

    def _gradients(self, images: Tensor, labels: Tensor, parts: int) -> Tensor:
        if parts == 1:
            return self._backward(images, labels, 1.0)
        cut = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        return torch.stack([self._backward(some, theirs, len(some) / len(images)) for some, theirs in cut]).sum()

    def _backward(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        with self._precision.autocast():
            loss = self._loss(self._forward(images), labels)
        if share != 1.0:
            loss = loss * share
        self._precision.backward(loss)
        return loss.detach()
