"""The order of candidates with several objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vnas.pareto import hypervolume, ranks
from vnas.search.sampling.encoding import Floats


def normalised(points: Floats) -> Floats:
    """(N, M) points with every objective from 0 to 1, so that milliseconds do not outweigh percents."""
    span = np.ptp(points, axis=0)
    return np.asarray((points - points.min(axis=0)) / np.where(span > 0, span, 1.0))


def contributions(points: Floats) -> Floats:
    """(N,) hypervolume that is lost with each point, up to a corner a tenth beyond the worst; all minimised."""
    corner = points.max(axis=0) + 0.1
    whole = hypervolume(points, corner)
    return np.array([whole - hypervolume(np.delete(points, at, axis=0), corner) for at in range(len(points))])


def order(points: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Candidates from the best to the worst: by non-dominated rank, within one by contribution to its hypervolume.

    Args:
        points: (N, M), all minimised, without NaN.

    Returns:
        (N,) indices into the points. What is equal stays in its order.
    """
    array = np.array(points, dtype=np.float64)
    if len(array) == 0:
        return np.empty(0, dtype=np.int64)
    array = normalised(array)
    rank = ranks(array)
    lost: npt.NDArray[Any] = np.zeros(len(array))
    for level in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == level)
        lost[members] = contributions(array[members])
    return np.lexsort((-lost, rank))
