"""Scores of a net that has not been trained: what brief training is held against.

Each takes a net as its training starts (VanillaNet at lambda = 0) and is larger for a net it holds to be better; the
net is left as it was.

Shapes: B images in a batch, C H W channels and sides in pixels, K classes, A activations of one image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vnas.nets import VanillaNet, cost
from vnas.nets.activation import SeriesActivation, SlopedActivation


def naswot(net: nn.Module, images: Tensor) -> float:
    """How differently the images of a batch switch the net's activations on and off.

    Each activation of an image is a bit: whether its input is positive. The score is log |det K| of the kernel
    K[i, j] = number of bits in which images i and j agree, (B, B).

    Args:
        net: its ``SlopedActivation`` and ``SeriesActivation`` modules are what is looked at.
        images: (B, C, H, W).

    Returns:
        The logarithm; minus infinity where two images switch everything alike.

    Source:
        Mellor et al., Neural Architecture Search without Training (arXiv 2006.04647), equation 2.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0].flatten(1) > 0).float()  # (B, A)
        # Bits are 0 or 1, so both products are counts below 2^24, exact in float32.
        kernel.add_((on @ on.T).double()).add_(((1.0 - on) @ (1.0 - on).T).double())

    scratch = copy.deepcopy(net).train()
    activations = [m for m in scratch.modules() if isinstance(m, SlopedActivation | SeriesActivation)]
    for activation in activations:
        # A shift inside the activation moves its threshold; the base activation is what sees the shifted input.
        seen = activation.base if isinstance(activation, SeriesActivation) else activation
        seen.register_forward_pre_hook(look)
    with _still(images.device), torch.no_grad():
        scratch(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def synflow(net: VanillaNet) -> float:
    """The logarithm of the sum over paths of the product of the absolute weights along each.

    Every parameter becomes its absolute value, the input is all ones, R is the sum of the logits, and the score is the
    sum of w dR/dw over the weights of the convolutions, in float64. Batch norm is in eval mode: the identity, in a
    net that has not been trained.

    Args:
        net: the size of its input is its architecture's.

    Returns:
        The logarithm; minus infinity where no path is left.

    Source:
        Tanaka et al., Pruning neural networks without any data (arXiv 2006.05467), equation 3.
    """
    scratch = copy.deepcopy(net).double().eval()
    arch = scratch.architecture
    with torch.no_grad():
        for parameter in scratch.parameters():
            parameter.abs_()
    device = next(scratch.parameters()).device
    ones = torch.ones(1, arch.in_chans, arch.image_size, arch.image_size, dtype=torch.float64, device=device)
    scratch(ones).sum().backward()
    score = sum(float((weight * gradient).sum()) for weight, gradient in _weights(scratch))
    return math.log(score) if score > 0 else -math.inf


def gradient_norm(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Euclidean norm of the gradient of one batch's cross entropy with respect to all parameters.

    Args:
        net: any classifier, (B, C, H, W) -> (B, K).
        images: (B, C, H, W).
        labels: (B,).

    Source:
        Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS (arXiv 2101.08134), section 3.2.
    """
    scratch = copy.deepcopy(net).train()
    with _still(images.device):
        F.cross_entropy(scratch(images), labels).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in scratch.parameters() if p.grad is not None]
    return float(torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt())


def _weights(net: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.grad is not None:
            yield module.weight.detach(), module.weight.grad


@contextmanager
def _still(device: torch.device) -> Iterator[None]:
    """Dropout in the body draws from torch's stream; the caller's is as it was afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


PROXIES: dict[str, Callable[[VanillaNet, Tensor, Tensor], float]] = {
    "naswot": lambda net, images, labels: naswot(net, images),
    "synflow": lambda net, images, labels: synflow(net),
    "gradient norm": gradient_norm,
    "parameters": lambda net, images, labels: float(cost(net.architecture).params),
    "MACs": lambda net, images, labels: float(cost(net.architecture).macs),
    "depth": lambda net, images, labels: float(net.architecture.depth),
}
"""By name: net, images (B, C, H, W) and labels (B,) -> score. The last three only count the fused net."""
