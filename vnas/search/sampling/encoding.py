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
        steps = [
            (place, level, 0.5 if exact else height, exact)
            for place, (name, exact) in enumerate(zip(self.names, self.by_equality, strict=True))
            for level, height in _levels(self._coordinates[name].values(), all_of_them=bool(exact))
        ]
        self._places = np.array([place for place, *_ in steps], dtype=np.intp)  # (K,)
        self._levels, self._heights = np.array([step[1:3] for step in steps], dtype=np.float64).reshape(-1, 2).T
        self._exact = np.array([exact for *_, exact in steps], dtype=bool)

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
        """(N, M) sum of the distances, each times its (P,) weight.

        A distance counts the steps between two levels, or whether they differ; with a row of zeros and ones for each
        point, |a - b| = a + b - 2 a b makes all sums one product of matrices.
        """
        one, two = self._steps(first), self._steps(second)  # (N, K), (M, K)
        heights = self._heights * weights[self._places]  # (K,)
        apart: Floats = (one @ heights)[:, None] + two @ heights - 2.0 * (one * heights) @ two.T
        return apart

    def _steps(self, points: Floats) -> Floats:
        """(N, K) which levels of each coordinate a point has passed, or, where only equality counts, which it is at."""
        at = points[:, self._places]
        return np.where(self._exact, at == self._levels, at >= self._levels).astype(np.float64)


def uniform(choices: Choices, generator: np.random.Generator) -> dict[str, Any]:
    """A choice for every name, each independent and uniform."""
    return some_uniform(choices, generator, 1)[0]


def some_uniform(choices: Choices, generator: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """So many independent draws of :func:`uniform`."""
    sizes = [len(options) for options in choices.values()]
    places = generator.integers(sizes, size=(count, len(sizes))).tolist()
    return [
        {name: options[place] for (name, options), place in zip(choices.items(), row, strict=True)} for row in places
    ]


def _levels(coordinates: Iterable[float], *, all_of_them: bool) -> list[tuple[float, float]]:
    """Each level above the lowest, or all, and its height above the one before; no meaning is the lowest of all."""
    levels = [ABSENT, *sorted(coordinates)]
    above = list(zip(levels[1:], np.diff(levels).tolist(), strict=True))
    return [(ABSENT, 0.0), *above] if all_of_them else above


def _coordinates(options: Sequence[Any]) -> dict[Any, float]:
    places = sorted(options) if ordered(options) else list(options)
    return {option: place / max(1, len(places) - 1) for place, option in enumerate(places)}
