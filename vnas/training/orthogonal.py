"""AdamW, but the kernels that mix channels move along their momentum made orthogonal.

Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; the iteration's coefficients
are from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Steep at 0, so that five steps bring singular values from .001 up to between about .7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class OrthogonalAdamW(torch.optim.AdamW):
    """AdamW whose groups may say ``orthogonal``; such a group is moved by Nesterov momentum made orthogonal.

    A kernel (O, I, K, K) counts as the matrix (O, I K K). Its update is scaled by sqrt(max(1, O / (I K K))), so that a
    rate means the same for every shape. Weight decay is AdamW's.

    Args:
        groups: parameter groups; an orthogonal one has ``momentum`` too.
        lr: of groups without their own.
        fused: AdamW by one kernel, for parameters on a device that has it.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, fused: bool) -> None:
        super().__init__(groups, lr=lr, fused=fused)
        # Fused AdamW takes over unscaling float16 gradients, for its own parameters alone; here it is done for all.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            if group.get("orthogonal"):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, parameter.grad, group)
                        kept.append((parameter, parameter.grad))
                        parameter.grad = None  # out of AdamW's way
        super().step()
        for parameter, gradient in kept:
            parameter.grad = gradient
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for one in every state that it loads
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"]).flatten(1)  # (O, I K K)
        rows, columns = direction.shape
        scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(direction).view_as(parameter), alpha=-scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of another and singular values near 1, by a Newton-Schulz iteration.

    Args:
        matrix: (M, N); all zeros stay so.
    """
    a, b, c = _COEFFICIENTS
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT  # the smaller side squared
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
