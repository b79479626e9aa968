"""Muon: momentum whose update is made orthogonal, for the matrices of a net; AdamW for all else.

Source:
    K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), for the iteration and its
    coefficients; J. Liu et al., Muon is scalable for LLM training (arXiv 2502.16982), equation 4, for the scale that
    gives an update AdamW's size, so that one learning rate suits both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2
"""Root mean square of an update by AdamW, as it is usually found to be."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are about 1: five Newton-Schulz iterations.

    Singular values end between 0.68 and 1.13, but for those that were less than a thousandth of the matrix's norm.

    Args:
        matrix: (R, C).

    Returns:
        (R, C), of the same dtype.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for convolutions that mix channels, as matrices (C_out, C_in k k); AdamW for depthwise ones and the rest.

    Biases, batch norm and other parameters of one dimension are not decayed.

    Args:
        net: whose parameters are trained.
        lr: learning rate of all of them.
        weight_decay: decoupled, multiplied by the learning rate.
        momentum: of the matrices (Nesterov's).
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        net: nn.Module,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        matrices = [one for one in parameters if _mixes(one)]
        depthwise = [one for one in parameters if one.ndim > 1 and not _mixes(one)]
        vectors = [one for one in parameters if one.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": weight_decay, "orthogonal": True},
            {"params": depthwise, "weight_decay": weight_decay, "orthogonal": False},
            {"params": vectors, "weight_decay": 0.0, "orthogonal": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step, along the gradients that there are.

        Args:
            closure: computes the loss and its gradients anew; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._matrix if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, group)
        return loss

    def _matrix(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(grad, 1.0 - group["momentum"])
        update = orthogonalised(torch.lerp(grad, average, group["momentum"]).flatten(1))
        size = _RMS * max(update.shape) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * size)

    def _adam(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1.0
        steps = float(state["step"])
        average = state["exp_avg"].lerp_(grad, 1.0 - first)
        square = state["exp_avg_sq"].lerp_(grad.square(), 1.0 - second)
        root = (square / (1.0 - second**steps)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(average, root, value=-group["lr"] / (1.0 - first**steps))


def _mixes(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.shape[1] > 1
