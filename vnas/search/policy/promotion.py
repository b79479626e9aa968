"""Who goes on to the next rung, and when.

The next to go on is the one that adds most hypervolume to those that have gone on, by the accuracies of the rung that
they all were judged at; among those that add none, the first by non-dominated rank. Greedily chosen so, on the raw
accuracies, sets were better than with a model of what the next rung would say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vnas.pareto import hypervolume, non_dominated
from vnas.search.policy.ranking import order
from vnas.search.sampling.encoding import Floats
from vnas.search.sampling.improvement import gain


def next_on(
    points: Floats, gone: npt.NDArray[np.bool_], allowed: npt.NDArray[np.bool_], corner: Floats | None = None
) -> int | None:
    """The candidate that goes on next.

    Args:
        points: (N, M) objectives at one rung, all minimised.
        gone: (N,) those that have gone on already.
        allowed: (N,) those that may.
        corner: (M,) the worst that counts; a tenth beyond the worst point without it.

    Returns:
        Its index; None where none may.
    """
    waiting = np.flatnonzero(allowed & ~gone)
    if len(waiting) == 0:
        return None
    if corner is None:
        corner = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    # Whoever adds most is on the front of those that wait.
    front = waiting[non_dominated(points[waiting])]
    there = points[gone]
    gains = _gains(points[front], there, corner)
    if gains.max() > 1e-12 * max(1.0, hypervolume(there, corner)):
        return int(front[np.argmax(gains)])
    return int(front[order(points[front])[0]])


def _gains(points: Floats, there: Floats, corner: Floats) -> Floats:
    """(N,) hypervolume that each of (N, M) points adds to those that are there."""
    if points.shape[1] == 2:
        front = there[:, 1], -there[:, 0]
        return gain(points[:, 1], -points[:, 0], front, float(-corner[0]), float(corner[1]))
    base = hypervolume(there, corner)
    return np.array([hypervolume(np.vstack([there, point]), corner) - base for point in points])


@dataclass(frozen=True)
class Limits:
    """How much a search may spend; None for no limit.

    Attributes:
        candidates: trained to the first rung.
        epochs: of training in all.
        seconds: of time in all.
        spend: share that goes to the rungs above the first, of those limits that are known.
        last: whether no candidate goes on before the last was begun: better in the end, nothing before it.
    """

    candidates: int
    epochs: float | None
    seconds: float | None
    spend: float
    last: bool = False


@dataclass(frozen=True)
class Spent:
    """What a search has spent.

    Attributes:
        candidates: trained to the first rung.
        first: epochs at the first rung, with those under way.
        above: epochs above it, likewise.
        seconds: since it began.
    """

    candidates: int
    first: float
    above: float
    seconds: float


def may_begin(spent: Spent, limits: Limits, cost: float, *, above: bool) -> bool:
    """Whether there is room for another candidate at the first rung.

    Args:
        spent: so far.
        limits: of the study.
        cost: epochs of the first rung.
        above: whether there are rungs above it that need their share.
    """
    share = 1.0 - limits.spend if above else 1.0
    if spent.candidates >= limits.candidates:
        return False
    if limits.epochs is not None and spent.first + cost > share * limits.epochs + 1e-9:
        return False
    return limits.seconds is None or spent.seconds < share * limits.seconds


def may_go_on(spent: Spent, limits: Limits, cost: float, *, begun_all: bool) -> bool:
    """Whether there is room for another step up.

    Args:
        spent: so far.
        limits: of the study.
        cost: epochs of the step.
        begun_all: whether no candidate will be begun any more.
    """
    if limits.seconds is not None and spent.seconds >= limits.seconds:
        return False
    if limits.epochs is not None and spent.first + spent.above + cost > limits.epochs + 1e-9:
        return False
    if limits.last and not begun_all:
        return False
    if begun_all:
        by_time = limits.seconds is not None and spent.candidates < limits.candidates
        if limits.epochs is not None or by_time or spent.above == 0.0:
            return True  # what is left of the epochs or of the time; and one at least has to come to the end
    share = limits.spend / (1.0 - limits.spend)
    return spent.above + cost <= share * spent.first + 1e-9
