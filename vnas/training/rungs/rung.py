"""What a rung is, what becomes known there, and what it costs. See :mod:`vnas.training.rungs.training`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from vnas.errors import ConfigError
from vnas.nets import FusedVanillaNet

Strategy = Literal["branch", "restart", "continue"]


@dataclass(frozen=True)
class Rung:
    """A moment at which a net is judged. Epochs may be parts of one.

    Attributes:
        trunk_epochs: by which the trunk grows before the branch leaves it; may be 0.
        branch_epochs: length of the branch, which has one step at least.
    """

    trunk_epochs: float
    branch_epochs: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.trunk_epochs < math.inf and 0.0 < self.branch_epochs < math.inf):
            raise ConfigError(
                f"a rung has trunk_epochs = {self.trunk_epochs} and branch_epochs = {self.branch_epochs}; the trunk "
                "may grow by 0 epochs, the branch must be longer"
            )


@dataclass(frozen=True)
class RungResult:
    """What became known at a rung.

    Attributes:
        rung: which, from 0.
        val_top1: accuracy of the fused net on the validation set, in percent.
        val_top1_training_form: the same for the form that was trained, at lambda = 1.
        train_loss: mean loss over the last pass over the data, or the part of one that there was.
        epochs: passes over the training set spent so far, with all branches.
        steps: optimiser steps spent so far, likewise.
        seconds: time spent on training so far, likewise; without evaluations.
        notes: see :class:`vnas.training.TrainingResult`.
        fused: the fused net in eval mode, on the device it was trained on.
    """

    rung: int
    val_top1: float
    val_top1_training_form: float
    train_loss: float
    epochs: float
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()
    fused: FusedVanillaNet | None = field(default=None, repr=False, compare=False)


def epochs_spent(rungs: Sequence[Rung], strategy: Strategy = "branch") -> tuple[float, ...]:
    """Epochs of training until each rung is judged, with all that came before.

    Args:
        rungs: in order.
        strategy: how a net comes from one rung to the next.
    """
    trunks = tuple(accumulate(rung.trunk_epochs for rung in rungs))
    if strategy == "restart":
        return tuple(accumulate(trunk + rung.branch_epochs for trunk, rung in zip(trunks, rungs, strict=True)))
    branches = accumulate(rung.branch_epochs for rung in rungs)
    return tuple(trunk + branch for trunk, branch in zip(trunks, branches, strict=True))


def overhead(rungs: Sequence[Rung], strategy: Strategy = "branch") -> float:
    """What a net that climbs all rungs costs, as a multiple of training it once to the last one's end."""
    once = math.fsum(rung.trunk_epochs for rung in rungs) + rungs[-1].branch_epochs
    return epochs_spent(rungs, strategy)[-1] / once
