"""How good a trained net is: its batch norms put right, fused, and evaluated as what will be deployed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vnas.nets import FusedVanillaNet, VanillaNet, fuse
from vnas.profiler.lock import device_lock, lock_key
from vnas.training.images.loaders import Loader
from vnas.training.judging import compare_forms, judge
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
    net, parts = run.learner.averaged(), run.learner.portions.count
    with device_lock(lock_key(device), exclusive=False):
        batches = run.next_batches(min(_NORM_BATCHES, len(run.loader)))
        reestimate_norms(net, _cut(batches, parts), parts * _NORM_BATCHES)
    fused = fuse(net)
    found = compare_forms(net, fused, validation, device)
    return Verdict(found.fused.top1, found.training_form.top1, fused, net)


def _cut(batches: Iterable[tuple[Tensor, Tensor]], parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        yield from zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)


def evaluate(net: nn.Module, loader: Loader, device: torch.device) -> float:
    """Top-1 accuracy in percent; see :func:`vnas.training.judging.judge`."""
    return judge(net, [loader], device).top1
