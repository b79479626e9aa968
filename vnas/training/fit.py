"""The brief deep training of one net: lambda from 0 to 1, then fused and judged as what will be deployed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from vnas.config import TrainingConfig
from vnas.errors import ArchitectureError, NonFiniteLossError
from vnas.nets import Architecture, VanillaNet, build, fuse, merge
from vnas.profiler.lock import device_lock, lock_key
from vnas.training.anneal import slopes
from vnas.training.data import Data
from vnas.training.loaders import Loader
from vnas.training.norms import reestimate_norms
from vnas.training.optim import (
    carry_state,
    learning_rate,
    make_loss,
    make_mixing,
    make_optimizer,
    set_learning_rate,
)
from vnas.training.precision import Precision
from vnas.training.result import EpochRecord, Progress, TrainingResult
from vnas.training.seeding import seeded

# Steps between two looks at the loss on a GPU, where each look waits for the device; the CPU looks at every step.
_GPU_LOSS_WINDOW = 16
# Training batches that the final batch norm statistics are a mean over.
_NORM_BATCHES = 32


def fit(
    net: VanillaNet | Architecture,
    data: Data,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train a net with lambda annealed to 1 step by step, fuse it, and evaluate the fused net on the validation set.

    The last step is always taken at lambda = 1, however short the run is, and the batch norm statistics are estimated
    anew at lambda = 1 before fusing (see :func:`vnas.training.norms.reestimate_norms`). On the CPU the same
    architecture, data, configuration and seed give the same fused weights, bit for bit.

    Args:
        net: a net, which is trained in place; or an architecture, whose net is initialised from the seed.
        data: training and validation sets. The test set is not touched.
        config: the recipe.
        seed: of initialisation, order, augmentation and dropout.
        device: where to train. Mixed precision is used on CUDA only.
        progress: called after every look at the loss (each step on the CPU); what it raises ends the run.

    Raises:
        ArchitectureError: the net does not have the data's classes or channels.
        ConfigError: options that exclude each other.
        DataError: an image cannot be decoded.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    arch = net if isinstance(net, Architecture) else net.architecture
    _check_fit(arch, data)
    with seeded(seed, device):
        if isinstance(net, Architecture):
            net = build(net)
        loader = data.training_loader(config, arch.image_size, seed=seed, device=device)
        validation = data.loader("validation", arch.image_size, device=device)
        return _Run(net, loader, config, data.num_classes, device, progress).result(validation)


def evaluate(net: nn.Module, loader: Loader, device: torch.device) -> float:
    """Top-1 accuracy in percent, in eval mode and float32; the net's mode is put back.

    Waits while the device is being measured, as training does before each epoch.
    """
    was_training = net.training
    net.eval()
    hits = torch.zeros((), dtype=torch.long, device=device)
    count = 0
    with device_lock(lock_key(device), exclusive=False), torch.inference_mode():
        for images, labels in loader:
            hits += (net(images).argmax(1) == labels).sum()
            count += len(labels)
    net.train(was_training)
    return 100.0 * int(hits) / count


def _check_fit(arch: Architecture, data: Data) -> None:
    for what, has, wants in (
        ("num_classes", arch.num_classes, data.num_classes),
        ("in_chans", arch.in_chans, data.in_chans),
    ):
        if has != wants:
            raise ArchitectureError(f"the net has {what} = {has}, but {data.source!r} needs {what} = {wants}")


class _Run:
    """The state of one run: the net, its average, its optimiser, and what has been seen of the loss."""

    def __init__(
        self,
        net: VanillaNet,
        loader: Loader,
        config: TrainingConfig,
        num_classes: int,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._config = config
        self._device = device
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self._net = net.to(device).to(memory_format=self._layout).train()
        self._loader = loader
        self._progress = progress
        self._optimizer = make_optimizer(self._net, config)
        self._ema = self._average(self._net)
        self._loss = make_loss(config)
        self._mixing = make_mixing(config, num_classes)
        self._precision = Precision(config, device)
        self._total = config.epochs * len(loader)
        self._merged_at: int | None = None
        self._images = 0
        self._began = time.perf_counter()

    def _average(self, net: VanillaNet) -> ModelEmaV3 | None:
        # The warm-up lets the average of a brief run forget the initial weights.
        return None if self._config.ema_decay is None else ModelEmaV3(net, self._config.ema_decay, use_warmup=True)

    def result(self, validation: Loader) -> TrainingResult:
        curve = []
        for epoch in range(self._config.epochs):
            with self._share():
                curve.append(self._epoch(epoch))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = self._seconds()
        net = self._averaged()
        with self._share():
            reestimate_norms(net, self._loader, _NORM_BATCHES)
        fused = fuse(net)
        return TrainingResult(
            val_top1=evaluate(fused, validation, self._device),
            val_top1_training_form=evaluate(net, validation, self._device),
            train_loss=curve[-1].loss,
            epochs=self._config.epochs,
            steps=self._total,
            seconds=seconds,
            images_per_second=self._images / seconds,
            curve=tuple(curve),
            pipeline=self._loader.pipeline,
            pipeline_reason=self._loader.reason,
            ema=self._ema is not None,
            merged_at=self._merged_at,
            fused=fused,
        )

    @contextmanager
    def _share(self) -> Iterator[None]:
        asked = time.perf_counter()
        with device_lock(lock_key(self._device), exclusive=False):
            self._began += time.perf_counter() - asked  # to wait until a measurement is over is not to train
            yield

    def _epoch(self, epoch: int) -> EpochRecord:
        per_epoch = len(self._loader)
        window = 1 if self._device.type == "cpu" else _GPU_LOSS_WINDOW
        seen: list[float] = []
        waiting: list[Tensor] = []
        lambdas: tuple[float, ...] = ()
        lr = 0.0
        for step, (images, labels) in enumerate(self._loader, start=epoch * per_epoch):
            lambdas = self._anneal(step)
            lr = learning_rate(self._config, step, per_epoch, self._total)
            set_learning_rate(self._optimizer, lr)
            waiting.append(self._step(images, labels, step))
            self._images += len(labels)
            if len(waiting) == window or (step + 1) % per_epoch == 0:
                seen.extend(_finite(waiting, epoch, step))
                waiting.clear()
                self._report(epoch, step, seen[-1], lr, lambdas)
        return EpochRecord(epoch, math.fsum(seen) / len(seen), lr, min(lambdas), max(lambdas), self._seconds())

    def _anneal(self, step: int) -> tuple[float, ...]:
        if self._merged_at is not None:
            return (1.0,)
        lambdas = slopes(self._config.anneal, step, self._total, self._net.num_pairs)
        self._net.set_slope(lambdas)
        # A merge at the very last step would only make its one update a fresh optimiser's first.
        if self._config.merge and min(lambdas) == 1.0 and step < self._total - 1:
            self._merge(step)
        return lambdas

    def _merge(self, step: int) -> None:
        merged = merge(self._net).to(memory_format=self._layout)
        optimizer = make_optimizer(merged, self._config)
        carry_state(self._optimizer, self._net, optimizer, merged)
        if self._ema is not None:
            average = self._average(merged)
            assert average is not None
            average.module = merge(self._averaged())
            self._ema = average
        self._net, self._optimizer, self._merged_at = merged, optimizer, step

    def _averaged(self) -> VanillaNet:
        """The net to judge: the average where there is one, with lambda copied and not averaged."""
        if self._ema is None:
            return self._net
        net = self._ema.module
        assert isinstance(net, VanillaNet)
        if self._net.num_pairs:
            net.set_slope(self._net.slopes)
        return net

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        if self._mixing is not None:
            images, labels = self._mixing(images, labels)
        with self._precision.autocast():
            loss = self._loss(self._net(images.contiguous(memory_format=self._layout)), labels)
        self._precision.step(loss, self._net, self._optimizer, self._config.clip_grad)
        if self._ema is not None:
            self._ema.update(self._net, step=step + 1)
        return loss.detach()

    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    def _report(self, epoch: int, step: int, loss: float, lr: float, lambdas: tuple[float, ...]) -> None:
        if self._progress is None:
            return
        seconds = self._seconds()
        self._progress(
            Progress(
                epoch=epoch,
                epochs=self._config.epochs,
                step=step + 1,
                steps=self._total,
                loss=loss,
                lr=lr,
                slope_min=min(lambdas),
                slope_max=max(lambdas),
                seconds=seconds,
                images_per_second=self._images / seconds,
            )
        )


def _finite(waiting: list[Tensor], epoch: int, last_step: int) -> Iterator[float]:
    first = last_step - len(waiting) + 1
    for step, loss in enumerate(torch.stack(waiting).tolist(), start=first):
        if not math.isfinite(loss):
            raise NonFiniteLossError(loss, epoch, step)
        yield loss
