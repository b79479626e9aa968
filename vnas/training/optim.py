"""The optimiser, its learning rate at every step, and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vnas.config import TrainingConfig
from vnas.training.orthogonal import OrthogonalAdamW

# A brief run must still have time to come down: the warm-up never takes more than this share of it.
MAX_WARMUP_SHARE = 0.5


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Linear warm-up, then a half cosine or a straight line that reaches ``min_lr`` at the last step.

    Args:
        config: gives ``lr``, ``min_lr``, ``lr_shape`` and ``warmup_epochs``.
        step: the step, from 0.
        steps_per_epoch: turns the warm-up into steps.
        total_steps: steps of the run; the warm-up takes at most half of them.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), int(total_steps * MAX_WARMUP_SHARE))
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    t = (step - warmup) / max(1, total_steps - 1 - warmup)
    left = 1.0 - t if config.lr_shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * t))
    return config.min_lr + (config.lr - config.min_lr) * left


def make_optimizer(net: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum or LAMB, by timm; or AdamW with orthogonal steps of the kernels.

    Biases, batch norm and other parameters of one dimension are not decayed. With ``layer_decay``, the learning rate
    falls by that factor from each layer to the one before it.
    """
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    if config.optimizer == "orthogonal":
        return _orthogonal(net, config)
    # One fused kernel for all parameters: a step of a small net is mostly the launching of small kernels.
    fused: dict[str, Any] = {"fused": True} if config.optimizer in ("adamw", "sgd") else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        net,
        opt=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        layer_decay=config.layer_decay,
        **fused,
    )
    return optimizer


def _orthogonal(net: nn.Module, config: TrainingConfig) -> OrthogonalAdamW:
    """Orthogonal steps for kernels that mix channels, apart from the head, whose outputs are no features."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]

    if config.layer_decay is None:
        groups = param_groups_weight_decay(net, config.weight_decay)
    else:
        groups = param_groups_layer_decay(net, config.weight_decay, layer_decay=config.layer_decay)
    mixing = {
        module.weight
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and not name.startswith("head.")
    }
    found: list[dict[str, Any]] = []
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        for kernels in (True, False):
            parameters = [p for p in group["params"] if (p in mixing) == kernels]
            own = {"orthogonal": True, "momentum": config.momentum} if kernels else {"orthogonal": False}
            share = scale if kernels else scale * config.adamw_lr / config.lr
            if parameters:
                found.append({**group, **own, "params": parameters, "lr_scale": share})
    return OrthogonalAdamW(found, lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, scaled by the group's share where it has one, as with layer decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def carry_state(before: torch.optim.Optimizer, old: nn.Module, after: torch.optim.Optimizer, new: nn.Module) -> None:
    """Hand the optimiser's averages on to the parameters that a merge has left as they were.

    Merging gives each pair a new convolution, which starts with fresh averages; its batch norm was the pair's second.
    """
    known = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        source = known.get(name)
        if source is None:
            source = known.get(name.replace(".bn.", ".bn2."))
        if source is not None and source.shape == parameter.shape and source in before.state:
            after.state[parameter] = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in before.state[source].items()
            }


def make_loss(config: TrainingConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy or binary cross entropy with label smoothing; mixed labels arrive smoothed, as (B, classes)."""
    from timm.loss.binary_cross_entropy import BinaryCrossEntropy
    from timm.loss.cross_entropy import SoftTargetCrossEntropy

    loss: nn.Module
    if config.loss == "bce":
        loss = BinaryCrossEntropy(smoothing=config.label_smoothing)
    elif config.mixup or config.cutmix:
        loss = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]
    else:
        loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    return loss
