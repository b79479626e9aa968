"""From the training form to the deployed form, exactly, and to the merged form that training can go on with."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from vnas.errors import FuseError
from vnas.nets.base import Head, PlainNet
from vnas.nets.blocks import TrainHead, TrainStage, TrainStem
from vnas.nets.fused import FusedVanillaNet
from vnas.nets.vanillanet import VanillaNet


def fuse(net: PlainNet) -> FusedVanillaNet:
    """The deployed form of a net, as a new module in eval mode; the net is left as it was.

    In eval mode the two forms agree to 1e-12 relative in float64 and to 1e-4 of the largest logit in float32 (about
    1e-6 where the net is well conditioned). The algebra is done in float64 on the net's device and cast back to its
    dtype; every weight is contiguous whatever layout the net was in.

    How each part fuses:

    - Pair: both batch norms fold into their convolutions, and at lambda = 1 the second convolution into the first,
      W = W2 W1 and b = b2 + W2 b1. A merged pair only has its batch norm to fold.
    - Series activation: the batch norm folds into the depthwise convolution. The shift b inside A commutes with the max
      pool, so it joins the bias of the convolution before it.
    - Residual before the activation: linear up to the pool, so it vanishes into the convolution, W' = W + P, where P is
      the identity, the rectangular identity ("pad") or the projection with its batch norm folded ("conv").
    - Residual after the activation: A stands between, so it stays an addition; a projection's batch norm folds.
    - Head: as a pair.

    Args:
        net: A training or merged net. A net that ``timm.utils.reparameterize_model`` has fused, or a FusedVanillaNet,
            is copied.

    Raises:
        FuseError: Some lambda is not 1, so no single convolution equals that pair.
    """
    if isinstance(net, VanillaNet):
        _check_slopes(net)
    elif not isinstance(net, FusedVanillaNet):
        raise FuseError(f"{type(net).__name__} is not a VanillaNet; fuse takes what vnas.nets.build returns")
    with torch.no_grad():
        fused = FusedVanillaNet(net.architecture, device="meta")
        fused.stem = _fused_copy(net.stem)
        fused.stages = nn.Sequential(*(_fused_copy(stage) for stage in net.stages))
        fused.head = cast(Head, _fused_copy(net.head))
    fused.feature_info = copy.deepcopy(net.feature_info)
    fused.num_features = fused.head_hidden_size = net.num_features
    fused.pretrained_cfg = fused.default_cfg = copy.deepcopy(net.pretrained_cfg)
    return fused.eval()


def merge(net: VanillaNet) -> VanillaNet:
    """The net with each pair as one convolution and its second batch norm, to train on from lambda = 1.

    A new net, in the mode of the old one; in eval mode both give the same output. Its weights load into
    ``VanillaNet(arch, merged=True)``. A merged net is copied.

    Args:
        net: A training net at lambda = 1.

    Raises:
        FuseError: Some lambda is not 1, or the net is already fused.
    """
    if not isinstance(net, VanillaNet) or net.form == "fused":
        raise FuseError(f"{type(net).__name__} is already fused; merge the training form, before fuse")
    _check_slopes(net)
    memo: dict[int, object] = {}
    with torch.no_grad():
        for pair in net.pairs.values():
            new = pair.merged()
            new.bn = copy.deepcopy(new.bn)
            # deepcopy takes what the memo holds instead of copying the pair.
            memo[id(pair)] = new.train(net.training)
    merged = copy.deepcopy(net, memo)
    merged.merged = True
    return merged


def _check_slopes(net: VanillaNet) -> None:
    below = {name: slope for name, slope in zip(net.pairs, net.slopes, strict=True) if slope != 1.0}
    if below:
        found = ", ".join(f"{name} {slope:g}" for name, slope in below.items())
        raise FuseError(
            f"lambda is not 1 in {len(below)} of {net.num_pairs} pairs ({found}), so they are not one convolution yet; "
            "train until lambda is 1, or call net.set_slope(1) and accept the change of output"
        )


def _fused_copy(block: nn.Module) -> nn.Module:
    if isinstance(block, TrainStem | TrainStage | TrainHead):
        return copy.deepcopy(block.fuse())
    return copy.deepcopy(block)
