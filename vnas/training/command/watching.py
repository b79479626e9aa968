"""A look at a net while it trains: both forms on the validation set, and the training left as if nobody had looked."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet, fuse
from vnas.training.command.distributed import unshare_norms
from vnas.training.images.data import Data
from vnas.training.judging import judge
from vnas.training.norms import reestimate_norms

LOOKS = 20
"""Of a run, at most: a curve needs no more points, and each costs two passes over the validation set."""

_NORM_BATCHES = 8


@dataclass(frozen=True)
class Look:
    """Accuracy on the validation set at one moment, in percent.

    Attributes:
        training_form: of the net as it is, with its lambda.
        fused: of the net with every lambda set to 1, fused: what would be deployed if training ended now.
    """

    training_form: float
    fused: float


def due(epoch: int, epochs: int, looks: int = LOOKS) -> bool:
    """Whether to look after an epoch: evenly, at most so often, and not after the last, which is judged anyway.

    Args:
        epoch: the epoch that has ended, from 0.
        epochs: epochs of the run.
        looks: the most there may be, the last included.
    """
    done = epoch + 1
    return done < epochs and done * looks // epochs > (done - 1) * looks // epochs


class Watch:
    """Keeps hold of the net that is being trained and judges copies of it.

    The running statistics of a brief run's batch norms trail behind its weights, so a copy gets statistics of its own
    from a few training batches, as the net itself does at the end; where images are streamed it keeps what it has, as
    a second set of loader processes would cost more than the look is worth.

    Attributes:
        net: the net in training, not its average; None before training begins.
        seconds: time spent on looking so far.
    """

    def __init__(self, data: Data, training: TrainingConfig, image_size: int, seed: int, device: torch.device) -> None:
        self._data = data
        self._training = training
        self._image_size = image_size
        self._seed = seed
        self._device = device
        self.net: VanillaNet | None = None
        self.seconds = 0.0

    def keep(self, net: nn.Module) -> nn.Module:
        """Take note of the net to train; a merge makes another one, which is kept then."""
        assert isinstance(net, VanillaNet)
        self.net = net
        return net

    def look(self) -> Look:
        """Judge the net as it is now. Takes no random numbers from the training and changes none of its state."""
        assert self.net is not None
        began = time.perf_counter()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            net = copy.deepcopy(self.net)
            unshare_norms(net)
            found = self._judged(net)
        self.seconds += time.perf_counter() - began
        return found

    def _judged(self, net: VanillaNet) -> Look:
        batches = self._data.training_loader(self._training, self._image_size, seed=self._seed, device=self._device)
        validation = self._data.loader("validation", self._image_size, device=self._device)
        resident = batches.pipeline == "resident"
        if resident:
            reestimate_norms(net, batches, _NORM_BATCHES)
        as_it_is = judge(net, [validation], self._device).top1
        if any(slope != 1.0 for slope in net.slopes):
            net.set_slope(1.0)
            if resident:
                reestimate_norms(net, batches, _NORM_BATCHES)
        return Look(as_it_is, judge(fuse(net), [validation], self._device).top1)
