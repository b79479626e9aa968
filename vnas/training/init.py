"""Initial weights of a recipe.

Shapes: O and I output and input channels, K the kernel's side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet

# Standard deviation of what is added to an identity, as a share of what keeps the variance. With none, channels whose
# inputs are alike would stay alike.
_NOISE = 0.2


@torch.no_grad()
def initialise(net: VanillaNet, config: TrainingConfig) -> None:
    """Give a fresh net the recipe's initial weights, drawn from the global stream.

    ``default`` leaves what the net has drawn, as the official code does. ``identity`` makes a net whose stages hand on
    what they get, as far as their form allows it: a kernel whose input and output are features of the net copies the
    channels that both have, a series kernel takes its middle alone (a plain activation), and channels that have no
    counterpart start at random. The stem and the classifier's first convolution are random: pixels are no features,
    features no classes. Random kernels keep the variance of their input.

    Args:
        net: in its training form; changed in place.
        config: gives ``init``.
    """
    if config.init == "default":
        return
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            if name in ("stem.pair.conv1", "head.fc.conv1"):
                _variance_kept(module.weight)
            else:
                identity(module.weight, depthwise=module.groups > 1)


def identity(weight: Tensor, *, depthwise: bool = False) -> None:
    """Fill a kernel (O, I, K, K) so that it hands on each channel that it can, in place."""
    _variance_kept(weight)
    shared = range(weight.shape[0] if depthwise else min(weight.shape[:2]))
    middle = weight.shape[2] // 2
    weight[: len(shared)] *= _NOISE
    weight[shared, [0] * len(shared) if depthwise else shared, middle, middle] += 1.0


def _variance_kept(weight: Tensor) -> None:
    nn.init.normal_(weight, std=1.0 / math.sqrt(weight[0].numel()))
