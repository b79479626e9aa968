"""The deep training of one net: lambda from 0 to 1, then fused and judged as what will be deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from vnas.config import TrainingConfig
from vnas.errors import ArchitectureError
from vnas.nets import Architecture, VanillaNet, build
from vnas.training.checkpointing import Checkpoint, Saver, identity, weights_digest
from vnas.training.images.data import Data
from vnas.training.init import initialise
from vnas.training.result import Progress, TrainingResult
from vnas.training.run import Run
from vnas.training.schedule import Complete
from vnas.training.seeding import derived_seed, seeded
from vnas.training.speed.choosing import Speed, choose_speed
from vnas.training.stepping import Setting
from vnas.training.verdict import evaluate, judged

__all__ = ["evaluate", "fit"]


def fit(
    net: VanillaNet | Architecture,
    data: Data,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Checkpoint | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    shard: tuple[int, int] | None = None,
) -> TrainingResult:
    """Train a net with lambda annealed to 1 step by step, fuse it, and evaluate the fused net on the validation set.

    The last step is always taken at lambda = 1, however short the run is, and the batch norm statistics are estimated
    anew at lambda = 1 before fusing (see :func:`vnas.training.norms.reestimate_norms`). On the CPU the same
    architecture, data, configuration and seed give the same fused weights, bit for bit, whether the run was killed and
    gone on with or not (see :mod:`vnas.training.checkpointing`). Where a GPU's memory is too small for a batch, it is
    cut into parts whose gradients are added up, and the result says so.

    Args:
        net: a net, which is trained in place; or an architecture, whose net is initialised from the seed.
        data: training and validation sets. The test set is not touched.
        config: the recipe.
        seed: of initialisation, order, augmentation and dropout.
        device: where to train.
        progress: called after every look at the loss (each step on the CPU); what it raises ends the run.
        checkpoint: where the run is kept; it goes on from there if it was begun. The file stays when the run is over.
            It is written after ``progress`` was called.
        wrap: stands between the net and its training step, such as DistributedDataParallel; called again for what a
            merge makes of the net.
        shard: rank of this process and number of processes that take a share of each batch. Every process draws the
            same random numbers; the first one writes the checkpoint, and all of them read it.

    Raises:
        ArchitectureError: the net does not have the data's classes or channels.
        CheckpointError: the checkpoint cannot be read or written.
        ConfigError: options that exclude each other.
        DataError: an image cannot be decoded.
        NonFiniteLossError: the loss became NaN or infinite.
        ResumeError: the checkpoint is another run's.
        TrainingError: out of memory, even with the smallest part of a batch.
    """
    arch = net if isinstance(net, Architecture) else net.architecture
    check_fit(arch, data)
    rank, processes = shard or (0, 1)
    with seeded(seed, device):
        weights = None if checkpoint is None or isinstance(net, Architecture) else weights_digest(net)
        if isinstance(net, Architecture):
            net = fresh(net, config)
        training = data.training_loader(config, arch.image_size, seed=seed, device=device, shard=shard)
        validation = data.loader("validation", arch.image_size, device=device)
        own = identity(
            arch,
            data,
            config,
            seed=seed,
            device=device,
            pipeline=training.pipeline,
            weights=weights,
            processes=processes,
        )
        saver = Saver(checkpoint, own, writes=rank == 0)
        found = saver.load()
        total = config.epochs * len(training)
        speed, reason = chosen_speed(found, lambda: net, config, device, config.batch_size // processes, total)
        setting = Setting(
            config=config,
            num_classes=data.num_classes,
            seed=seed,
            device=device,
            speed=speed,
            loader=lambda: training,
            progress=progress,
            after_look=lambda: saver.save_if_due(state) if run.resumable else None,
            wrap=wrap,
            divides=processes == 1,
        )
        run = Run(net, Complete(config, len(training), total), setting, found and found["run"])

        def state() -> dict[str, Any]:
            return {"run": run.state(), "speed": asdict(speed), "speed_reason": reason}

        run.advance(total)
        if checkpoint is not None:
            saver.save(state)
        seconds = run.seconds
        verdict = judged(run, validation, device)
    parts = run.learner.portions
    return TrainingResult(
        val_top1=verdict.val_top1,
        val_top1_training_form=verdict.val_top1_training_form,
        train_loss=run.curve[-1].loss,
        epochs=config.epochs,
        steps=total,
        seconds=seconds,
        images_per_second=run.images / seconds,
        curve=tuple(run.curve),
        pipeline=training.pipeline,
        pipeline_reason=training.reason,
        ema=config.ema_decay is not None,
        merged_at=run.learner.merged_at,
        speed=speed,
        speed_reason=reason,
        micro_batch=parts.largest(config.batch_size // processes),
        notes=tuple(run.learner.notes),
        fused=verdict.fused,
        trained=verdict.trained,
    )


def fresh(arch: Architecture, config: TrainingConfig) -> VanillaNet:
    """A net with the recipe's initial weights, drawn from the global streams."""
    net = build(arch)
    initialise(net, config)
    return net


def chosen_speed(
    found: Mapping[str, Any] | None,
    make: Callable[[], VanillaNet],
    config: TrainingConfig,
    device: torch.device,
    batch_size: int,
    steps: int,
) -> tuple[Speed, str]:
    """Layout, precision and compilation, and why: those that a run was begun with, or those that suit it.

    Args:
        found: the run's checkpoint, if there is one.
        make: gives the net as it is before the first step; called where there is no checkpoint.
        config: the recipe.
        device: where to train.
        batch_size: images that the net sees at once.
        steps: of the run, which measuring and compiling must pay off in.
    """
    if found is not None:
        return Speed(**found["speed"]), found["speed_reason"]
    net = make()
    arch = net.architecture
    # Pixels of its own, as a batch taken from the loader would be missing from the run; one image, as often as need
    # be, takes no memory where nothing is measured.
    random = torch.Generator(device).manual_seed(derived_seed(0, "speed"))
    image = torch.randn((1, arch.in_chans, arch.image_size, arch.image_size), generator=random, device=device)
    images = image.expand(batch_size, -1, -1, -1)  # (B, C, S, S)
    labels = torch.randint(arch.num_classes, (batch_size,), generator=random, device=device)  # (B,)
    return choose_speed(net, config, device, (images, labels), steps)


def check_fit(arch: Architecture, data: Data) -> None:
    """Raise ArchitectureError unless the net has the data's classes and channels."""
    for what, has, wants in (
        ("num_classes", arch.num_classes, data.num_classes),
        ("in_chans", arch.in_chans, data.in_chans),
    ):
        if has != wants:
            raise ArchitectureError(f"the net has {what} = {has}, but {data.source!r} needs {what} = {wants}")
