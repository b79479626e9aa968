"""Accuracy of nets: of one net over a set, and of the two forms of a net side by side.

Shapes: B images in a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vnas.profiler.lock import device_lock, lock_key
from vnas.training.images.loaders import Loader
from vnas.training.memory import Portions


@dataclass(frozen=True)
class Accuracy:
    """How often a net is right.

    Attributes:
        top1: share of images whose class has the largest logit, in percent.
        top5: share of images whose class is among the five largest, in percent; None with five classes or fewer.
        images: how many images were judged.
    """

    top1: float
    top5: float | None
    images: int


@dataclass(frozen=True)
class SideBySide:
    """The two forms of one net on the same images.

    Attributes:
        training_form: the form that was trained, at lambda = 1.
        fused: the form that is deployed.
        differing: images of which the two forms say another class.
        logit_difference: largest difference of a logit, relative to the largest logit.
    """

    training_form: Accuracy
    fused: Accuracy
    differing: int
    logit_difference: float


class _Hits:
    """Counts, on the device, so that no batch waits for the one before it."""

    def __init__(self, device: torch.device) -> None:
        self._top1 = torch.zeros((), dtype=torch.long, device=device)
        self._top5 = torch.zeros((), dtype=torch.long, device=device)
        self._has_five = False
        self._images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self._has_five = logits.shape[1] > 5
        self._top1 += (logits.argmax(1) == labels).sum()
        if self._has_five:
            self._top5 += (logits.topk(5).indices == labels[:, None]).sum()  # (B, 5) == (B, 1)
        self._images += len(labels)

    def accuracy(self) -> Accuracy:
        top5 = 100.0 * int(self._top5) / self._images if self._has_five else None
        return Accuracy(100.0 * int(self._top1) / self._images, top5, self._images)


def judge(net: nn.Module, loaders: Iterable[Loader], device: torch.device) -> Accuracy:
    """Accuracy of a net over one set or several, in eval mode and float32; the net's mode is put back.

    Waits while the device is being measured, as training does before each epoch. A batch for which memory is too small
    is cut into parts, which changes nothing.

    Args:
        net: on the device; (B, C, S, S) -> (B, K).
        loaders: of the sets, one after another.
        device: where.
    """
    hits = _Hits(device)
    portions = Portions(device, least=1)
    with _judging(device, net):
        for loader in loaders:
            for images, labels in loader:
                hits.add(portions.attempt(len(images), "to evaluate", partial(_logits, net, images)), labels)
    return hits.accuracy()


def _logits(net: nn.Module, images: Tensor, parts: int) -> Tensor:
    return torch.cat([net(some) for some in images.tensor_split(parts)])  # (B, K)


def compare_forms(training_form: nn.Module, fused: nn.Module, loader: Loader, device: torch.device) -> SideBySide:
    """Accuracy of both forms of a net on the same images, and how far their answers lie apart.

    Args:
        training_form: at lambda = 1, on the device.
        fused: likewise.
        loader: of the set.
        device: where.
    """
    one, other = _Hits(device), _Hits(device)
    differing = torch.zeros((), dtype=torch.long, device=device)
    apart = largest = torch.zeros((), device=device)
    portions = Portions(device, least=1)
    with _judging(device, training_form, fused):
        for images, labels in loader:
            trained = portions.attempt(len(images), "to evaluate", partial(_logits, training_form, images))  # (B, K)
            deployed = portions.attempt(len(images), "to evaluate", partial(_logits, fused, images))
            one.add(trained, labels)
            other.add(deployed, labels)
            differing += (trained.argmax(1) != deployed.argmax(1)).sum()
            apart = torch.maximum(apart, (trained - deployed).abs().max())
            largest = torch.maximum(largest, trained.abs().max())
    relative = float(apart / largest) if float(largest) else 0.0
    return SideBySide(one.accuracy(), other.accuracy(), int(differing), relative)


@contextmanager
def _judging(device: torch.device, *nets: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and nothing is measured on the device meanwhile."""
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        with device_lock(lock_key(device), exclusive=False), torch.inference_mode():
            yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)
