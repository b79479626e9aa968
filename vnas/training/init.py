"""Initial weights of a recipe. PLACEHOLDER by T1 so that the tree imports: T4 replaces this file."""

from __future__ import annotations

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet


def initialise(net: VanillaNet, config: TrainingConfig) -> None:
    """Leave the weights as the net draws them."""
