"""Small nets whose answer numpy gives too, and what package.module:function can find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray


class Small(torch.nn.Module):
    """Convolution, ReLU, mean over the image, linear."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(3, width, 3)
        self.head = torch.nn.Linear(width, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return logits


def small(width: int = 8) -> Small:
    return Small(width).eval()


def images(batch: int = 2, size: int = 10) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def answer(net: Small, images: torch.Tensor) -> NDArray[np.float64]:
    """The net in numpy and float64."""
    weights = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
    windows = np.lib.stride_tricks.sliding_window_view(
        images.double().numpy(), (3, 3), axis=(2, 3)
    )  # (B, C, H, W, 3, 3)
    features = np.einsum("bchwij,ocij->bohw", windows, weights["conv.weight"])
    features = np.maximum(features + weights["conv.bias"][:, None, None], 0).mean(axis=(2, 3))
    logits: NDArray[np.float64] = features @ weights["head.weight"].T + weights["head.bias"]
    return logits


class Tokens(torch.nn.Module):
    """Integer inputs, and two outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(11, 4)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.table(tokens)
        return {"scaled": found * scale, "sum": found.sum(-1)}


def tokens() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    return Tokens(), (torch.arange(6).reshape(1, 6), torch.full((1, 1, 1), 2.0))


def with_one_tensor() -> tuple[Callable[..., object], torch.Tensor]:
    return torch.relu, torch.zeros(3)


def pair_without_a_callable() -> tuple[int, tuple[torch.Tensor]]:
    return 3, (torch.zeros(3),)
