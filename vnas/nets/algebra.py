"""The equations behind fusing, on plain tensors. Callers pass float64 and cast the results back.

Shapes: O and I output and input channels, K the kernel's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Affine = tuple[Tensor, Tensor]
"""A convolution's weight (O, I, K, K) and bias (O,)."""


def conv_terms(conv: nn.Conv2d) -> Affine:
    """Weight and bias of a convolution in float64; the bias is zero where there is none."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
    return weight, bias if conv.bias is None else conv.bias.detach().double()


def norm_terms(norm: nn.Module) -> Affine | None:
    """Scale gamma / sigma and offset beta - mu gamma / sigma of a batch norm in eval mode, in float64.

    sigma = sqrt(var + eps). None for an identity.
    """
    if isinstance(norm, nn.Identity):
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def fold_norm(affine: Affine, norm: nn.Module) -> Affine:
    """BN after a convolution: W' = W gamma / sigma, b' = (b - mu) gamma / sigma + beta."""
    terms = norm_terms(norm)
    if terms is None:
        return affine
    (weight, bias), (scale, offset) = affine, terms
    return weight * scale.view(-1, 1, 1, 1), bias * scale + offset


def fold_pointwise(first: Affine, second: Affine) -> Affine:
    """A 1x1 convolution after a convolution: W[o,i,j,k] = sum_m W2[o,m] W1[m,i,j,k], b = b2 + W2 b1."""
    (weight1, bias1), (weight2, bias2) = first, second
    mix = weight2.flatten(1)  # (O, M, 1, 1) -> (O, M)
    weight = (mix @ weight1.flatten(1)).view(-1, *weight1.shape[1:])  # (O, M) (M, I K K) -> (O, I, K, K)
    return weight, bias2 + mix @ bias1


def rectangular_identity(width_out: int, width_in: int, like: Tensor) -> Tensor:
    """The 1x1 kernel (O, I, 1, 1) that copies channels and pads or cuts the rest."""
    return torch.eye(width_out, width_in, dtype=like.dtype, device=like.device)[:, :, None, None]


def conv_like(source: nn.Conv2d, affine: Affine) -> nn.Conv2d:
    """A fresh convolution with these terms, on the device and in the dtype of ``source``.

    The weight is newly allocated, so that its strides are those of a fresh net: a product of two kernels, or a
    channels-last source, leaves strides of size-1 axes that ``contiguous()`` does not repair and that turn every later
    map to channels-last.
    """
    weight, bias = affine
    conv: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d,
        source.in_channels,
        weight.shape[0],
        source.kernel_size,
        stride=source.stride,
        padding=source.padding,
        groups=source.groups,
        device=source.weight.device,
        dtype=source.weight.dtype,
    )
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    return conv
