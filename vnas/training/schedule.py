"""Lambda and the learning rate at every step of what is trained: a complete anneal, or a trunk without an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vnas.config import TrainingConfig
from vnas.training.anneal import slopes
from vnas.training.optim import learning_rate


class Schedule(Protocol):
    """What is set before each step."""

    @property
    def steps(self) -> int:
        """How many there are."""
        ...

    def slopes(self, step: int, pairs: int) -> tuple[float, ...]:
        """Lambda of every pair, first to last, at a step from 0 on."""
        ...

    def rate(self, step: int) -> float:
        """Learning rate at a step from 0 on."""
        ...


@dataclass(frozen=True)
class Complete:
    """Training to the end: lambda goes to 1 and the rate comes down to its least, from fresh weights or from a trunk.

    Attributes:
        config: the recipe.
        steps_per_epoch: batches in one pass over the training set.
        steps: until lambda is 1 and the rate at its least.
        slope: lambda before it leaves for 1.
    """

    config: TrainingConfig
    steps_per_epoch: int
    steps: int
    slope: float = 0.0

    def slopes(self, step: int, pairs: int) -> tuple[float, ...]:
        """See :class:`Schedule`; every lambda is exactly 1 at the last step."""
        shares = slopes(self.config.anneal, step, self.steps, pairs)
        # a + (1 - a) is 1 for every float a from 0 to 1: what 1 - a has lost is half a unit at most, and evens out.
        return tuple(self.slope + (1.0 - self.slope) * share for share in shares)

    def rate(self, step: int) -> float:
        """See :class:`Schedule`."""
        return learning_rate(self.config, step, self.steps_per_epoch, self.steps)


@dataclass(frozen=True)
class Trunk:
    """Training that can go on for ever: lambda stays where it is, and so does the rate once it is warm.

    Attributes:
        lr: the rate.
        steps: of the trunk, as far as is known.
        warmup: steps in which the rate rises.
        slope: lambda of every pair, below 1.

    Source:
        A constant rate with a decay that branches off wherever a finished model is wanted: Hägele et al., Scaling Laws
        and Compute-Optimal Training Beyond Fixed Training Durations (arXiv 2405.18392).
    """

    lr: float
    steps: int
    warmup: int = 0
    slope: float = 0.0

    def slopes(self, step: int, pairs: int) -> tuple[float, ...]:
        """See :class:`Schedule`."""
        return (self.slope,) * pairs

    def rate(self, step: int) -> float:
        """See :class:`Schedule`."""
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1))
