"""Draws as points: one coordinate a name, so that a distance between two draws has a meaning.

    name             choices            coordinate
    stage2.width     64, 128, 256       0, 0.5, 1: numbers keep their order, evenly spaced
    stage2.residual  none, before       0, 1: only equal or not
    flip             false, true        0, 1: likewise

Names that a draw makes irrelevant (the stages past the last one) take one and the same coordinate, :data:`ABSENT`, so
that draws which name the same candidate are the same point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Choices = Mapping[str, Sequence[Any]]
Draw = Mapping[str, Any]

ABSENT = -1.0
"""Coordinate of a name without a meaning: as far from the first choice as the first is from the last."""


def ordered(options: Sequence[Any]) -> bool:
    """Whether choices are numbers, which have an order."""
    return all(isinstance(option, int | float) and not isinstance(option, bool) for option in options)


class Encoding:
    """Draws of one space as points.

    Args:
        choices: what each name may be; at least two choices each.
    """

    def __init__(self, choices: Choices) -> None:
        self.names = tuple(choices)
        self.by_equality = np.array([not ordered(choices[name]) for name in self.names], dtype=bool)  # (P,)
        self._coordinates = {name: _coordinates(options) for name, options in choices.items()}

    def points(self, draws: Iterable[Draw], absent: Iterable[Collection[str]] | None = None) -> Floats:
        """(N, P) coordinates of N draws.

        Args:
            draws: a choice for every name.
            absent: for each draw, the names that it makes irrelevant.
        """
        rows = [[self._coordinates[name][draw[name]] for name in self.names] for draw in draws]
        points = np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names))
        for row, names in enumerate(absent or ()):
            for name in names:
                if name in self._coordinates:
                    points[row, self.names.index(name)] = ABSENT
        return points

    def distances(self, first: Floats, second: Floats) -> Floats:
        """(N, M, P) distance in each coordinate between (N, P) and (M, P) points."""
        apart = np.abs(first[:, None, :] - second[None, :, :])
        apart[..., self.by_equality] = apart[..., self.by_equality] > 0
        return apart

    def weighted(self, first: Floats, second: Floats, weights: Floats) -> Floats:
        """(N, M) sum of the distances, each times its (P,) weight, without an array of all of them."""
        total = np.zeros((len(first), len(second)))
        for place, weight in enumerate(weights):
            apart = np.abs(first[:, place, None] - second[None, :, place])  # (N, M)
            total += weight * ((apart > 0) if self.by_equality[place] else apart)
        return total


def uniform(choices: Choices, generator: np.random.Generator) -> dict[str, Any]:
    """A choice for every name, each independent and uniform."""
    return {name: options[int(generator.integers(len(options)))] for name, options in choices.items()}


def _coordinates(options: Sequence[Any]) -> dict[Any, float]:
    places = sorted(options) if ordered(options) else list(options)
    return {option: place / max(1, len(places) - 1) for place, option in enumerate(places)}
