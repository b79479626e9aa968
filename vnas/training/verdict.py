"""How good a trained net is: its batch norms put right, fused, and evaluated as what will be deployed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vnas.nets import FusedVanillaNet, VanillaNet, fuse
from vnas.profiler.lock import device_lock, lock_key
from vnas.training.loaders import Loader
from vnas.training.memory import Portions
from vnas.training.norms import reestimate_norms
from vnas.training.run import Run

# Training batches that the final batch norm statistics are a mean over.
_NORM_BATCHES = 32


@dataclass(frozen=True)
class Verdict:
    """A net at lambda = 1 in both forms.

    Attributes:
        val_top1: accuracy of the fused net on the validation set, in percent.
        val_top1_training_form: of the form that was trained.
        fused: in eval mode.
        trained: the form that was trained; the average where there is one.
    """

    val_top1: float
    val_top1_training_form: float
    fused: FusedVanillaNet
    trained: VanillaNet


def judged(run: Run, validation: Loader, device: torch.device) -> Verdict:
    """Judge a run that has come to lambda = 1. Takes some of the batches that would be trained on next.

    Raises:
        FuseError: some lambda is not 1.
    """
    net = run.learner.averaged()
    with device_lock(lock_key(device), exclusive=False):
        reestimate_norms(net, run.next_batches(min(_NORM_BATCHES, len(run.loader))), _NORM_BATCHES)
    fused = fuse(net)
    return Verdict(evaluate(fused, validation, device), evaluate(net, validation, device), fused, net)


def evaluate(net: nn.Module, loader: Loader, device: torch.device) -> float:
    """Top-1 accuracy in percent, in eval mode and float32; the net's mode is put back.

    Waits while the device is being measured, as training does before each epoch. A batch for which memory is too small
    is cut into parts, which changes nothing.
    """
    was_training = net.training
    net.eval()
    hits = torch.zeros((), dtype=torch.long, device=device)
    count = 0
    portions = Portions(device, least=1)
    with device_lock(lock_key(device), exclusive=False), torch.inference_mode():
        for images, labels in loader:
            hits += portions.attempt(len(images), "to evaluate", partial(_hits, net, images, labels))
            count += len(labels)
    net.train(was_training)
    return 100.0 * int(hits) / count


def _hits(net: nn.Module, images: Tensor, labels: Tensor, parts: int) -> Tensor:
    cut = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    return torch.stack([(net(some).argmax(1) == theirs).sum() for some, theirs in cut]).sum()
