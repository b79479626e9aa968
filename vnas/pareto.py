"""Dominance, non-dominated ranks and hypervolume, in numpy.

Legend: N points, M objectives. Everything is minimised; an objective to maximise is flipped first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def _minimised(points: npt.ArrayLike, maximise: Sequence[bool] | None) -> Floats:
    array = np.array(points, dtype=np.float64)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, len(maximise) if maximise is not None else 2)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"points has shape {array.shape}; it must be (N, M) with at least one objective")
    if maximise is not None:
        if len(maximise) != array.shape[1]:
            raise ValueError(f"maximise has {len(maximise)} entries for {array.shape[1]} objectives; give one for each")
        array[:, np.asarray(maximise, dtype=bool)] *= -1.0
    return array + 0.0  # -0.0 becomes 0.0, so that equal points are equal bit by bit too


def _front_of_unique(rows: Floats) -> Mask:
    # Rows are distinct and in lexicographic order: only an earlier row can dominate a later one.
    keep = np.zeros(len(rows), dtype=bool)
    if rows.shape[1] <= 2:
        last = rows[:, -1]
        keep[:1] = True
        keep[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
        return keep
    front = np.empty_like(rows)
    size = 0
    for index, row in enumerate(rows):
        if not np.any(np.all(front[:size] <= row, axis=1)):
            front[size] = row
            size += 1
            keep[index] = True
    return keep


def non_dominated(points: npt.ArrayLike, maximise: Sequence[bool] | None = None) -> Mask:
    """Which points no other point dominates.

    a dominates b when it is no worse in every objective and better in at least one. With both minimised:

        second |                       | a (1, 3) | b (2, 2) | c (3, 1) | d (2, 3) | e (2, 2) | f (1, nan)
        3      | a     d      front    | yes      | yes      | yes      | no       | yes      | no
        2      |       b e    because  |          |          |          | a and b  | equal to |  unknown is
        1      |           c           |          |          |          | are no   | b: both  |  never on
               +-----------            |          |          |          | worse    | are kept |  the front
                 1     2   3  first

    Args:
        points: (N, M) values; a row with a NaN is never on the front and dominates nothing.
        maximise: for each of the M objectives, whether more is better; all are minimised without it.

    Returns:
        (N,) mask of the non-dominated points, equal ones all kept.

    Raises:
        ValueError: the shapes do not fit.
    """
    array = _minimised(points, maximise)  # (N, M)
    mask = np.zeros(len(array), dtype=bool)
    known = np.flatnonzero(~np.isnan(array).any(axis=1))
    if known.size:
        rows, inverse = np.unique(array[known], axis=0, return_inverse=True)
        mask[known] = _front_of_unique(rows)[inverse.reshape(-1)]
    return mask


def ranks(points: npt.ArrayLike, maximise: Sequence[bool] | None = None) -> npt.NDArray[np.int64]:
    """Non-dominated rank of each point: 0 on the front, 1 on the front of what remains, and so on.

    Args:
        points: (N, M) values.
        maximise: as in :func:`non_dominated`.

    Returns:
        (N,) ranks; -1 for a row with a NaN.

    Raises:
        ValueError: the shapes do not fit.
    """
    array = _minimised(points, maximise)
    result = np.full(len(array), -1, dtype=np.int64)
    left = np.flatnonzero(~np.isnan(array).any(axis=1))
    rank = 0
    while left.size:
        front = non_dominated(array[left])
        result[left[front]] = rank
        left = left[~front]
        rank += 1
    return result


def _volume(front: Floats, reference: Floats) -> float:
    # Slabs along the last objective; in each the volume of one dimension less (hypervolume by slicing objectives).
    if front.shape[1] == 1:
        return float(reference[0] - front[:, 0].min())
    if front.shape[1] == 2:
        front = front[np.lexsort((front[:, 1], front[:, 0]))]
        front = front[_front_of_unique(front)]
        right = np.append(front[1:, 0], reference[0])
        return float(np.sum((right - front[:, 0]) * (reference[1] - front[:, 1])))
    levels = np.unique(front[:, -1])
    tops = np.append(levels[1:], reference[-1])
    return sum(
        float(top - level) * _volume(front[front[:, -1] <= level, :-1], reference[:-1])
        for level, top in zip(levels, tops, strict=True)
    )


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike, maximise: Sequence[bool] | None = None) -> float:
    """Volume that the points dominate, up to a reference point: exact for any number of objectives.

    Two objectives take a sort and a sweep. More are cut into slabs, at a cost that grows with N ** (M - 1).

    Args:
        points: (N, M) values; rows with a NaN, or no better than the reference in some objective, add nothing.
        reference: (M,) the worst corner, in the same units and direction as the points.
        maximise: as in :func:`non_dominated`.

    Returns:
        The volume, in the product of the objectives' units; 0.0 without points.

    Raises:
        ValueError: the shapes do not fit, or the reference holds a NaN.
    """
    array = _minimised(points, maximise)
    corner = _minimised(np.asarray(reference, dtype=np.float64)[None, ...], maximise)[0]
    if np.isnan(corner).any():
        raise ValueError(f"reference {np.asarray(reference).tolist()} holds a NaN; give a number for each objective")
    if len(array) == 0:
        return 0.0
    if array.shape[1] != len(corner):
        raise ValueError(f"reference has {len(corner)} values for {array.shape[1]} objectives; give one for each")
    inside = array[np.all(array < corner, axis=1)]
    if len(inside) == 0:
        return 0.0
    return _volume(inside[non_dominated(inside)], corner)
