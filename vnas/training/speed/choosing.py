"""How training steps are made fast on a device: memory layout, mixed precision, compilation.

    speed, reason = choose_speed(net, config, device, batch, steps=total_steps)

Each of the three is asked for (true, false, the name of a type), measured ("auto"), or left to the device (not given):

    GPU   measured: each is used only where steps of this very net are faster with it on this device
    CPU   channels_last, float32, not compiled, whatever is faster: a choice that depends on timing can differ from run
          to run, and with it the last bits of the weights; so nothing is measured there unless "auto" is written

How it is measured, and how little of a run that may take, is told in :mod:`vnas.training.speed.measuring`.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet
from vnas.profiler.lock import device_lock, lock_key
from vnas.profiler.runtimes.failures import memory_ran_out
from vnas.training.memory import LEAST_IMAGES
from vnas.training.seeding import seeded
from vnas.training.speed.measuring import Measuring
from vnas.training.speed.options import Options, Speed, options_of

__all__ = ["Speed", "choose_speed"]


def choose_speed(
    net: VanillaNet,
    config: TrainingConfig,
    device: torch.device,
    batch: tuple[Tensor, Tensor],
    steps: int,
) -> tuple[Speed, str]:
    """Layout, precision and compilation for a run, as the module's docstring says.

    The net's weights and hooks and all random numbers stay as they are. Waits while the device is being measured. Where
    several processes share each batch, what the first one has measured counts for all of them.

    Args:
        net: as it is before the first step.
        config: gives ``channels_last``, ``amp`` and ``compile``, and what a step takes.
        device: where to train.
        batch: images (B, C, S, S) and labels (B,), on the device; what is in them does not matter.
        steps: of the run, which measuring and compiling must pay off in.

    Returns:
        The choice, and the reason in words, with what was measured.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    options = options_of(config, device)
    if options.settled:
        return options.plain, _settled_reason(config, device, options.plain)
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return _measured(net, config, device, batch, steps, options)
    choice: list[tuple[Speed, str] | None] = [None]
    if distributed.get_rank() == 0:
        choice = [_measured(net, config, device, batch, steps, options)]
    distributed.broadcast_object_list(choice, src=0, device=device if device.type == "cuda" else None)
    assert choice[0] is not None
    return choice[0]


def _settled_reason(config: TrainingConfig, device: torch.device, speed: Speed) -> str:
    if device.type != "cuda" and None in (config.channels_last, config.amp, config.compile):
        return (
            f'{speed}: on a {device.type} nothing is measured that is not asked for (with "auto"), so that a seed '
            "gives the same weights again"
        )
    return f"{speed}, as configured"


def _measured(
    net: VanillaNet,
    config: TrainingConfig,
    device: torch.device,
    batch: tuple[Tensor, Tensor],
    steps: int,
    options: Options,
) -> tuple[Speed, str]:
    images, labels = batch
    with seeded(0, device), device_lock(lock_key(device), exclusive=False):
        while True:
            try:
                return Measuring(net, config, device, (images, labels), steps, options).choice()
            except RuntimeError as error:
                if not memory_ran_out(error):
                    raise
            # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
            if len(images) // 2 < LEAST_IMAGES:
                return options.plain, f"{options.plain}: memory is too small to measure what is faster"
            images, labels = images[: len(images) // 2], labels[: len(labels) // 2]
            if device.type == "cuda":
                torch.cuda.empty_cache()
