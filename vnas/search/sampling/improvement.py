r"""Expected gain in hypervolume of a net whose latency is known and whose accuracy is not (two objectives).

    accuracy                      The net lies somewhere on the dashed line. Above each step of the front it adds the
      |      :   +------          step's width times what it exceeds the step by, so its expected gain is
      |      : +-'
      |   +--:-'                       sum over steps of  width x E[max(0, accuracy - level)]
      |   |  :
      +---'--:-----------|        and the expectation of a normal variable's excess is closed (Jones et al. 1998,
             latency  ceiling     eq. 15).

Without data on it, latency is a normal variable's mean here.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from vnas.pareto import non_dominated
from vnas.search.sampling.encoding import Floats


def expected_excess(mean: Floats, spread: Floats, level: float) -> Floats:
    """(N,) expected max(0, X - level) of normal variables."""
    off = (mean - level) / spread
    return np.asarray((mean - level) * ndtr(off) + spread * np.exp(-0.5 * off**2) / np.sqrt(2.0 * np.pi))


def steps_of(latency: Floats, accuracy: Floats, floor: float, ceiling: float) -> tuple[Floats, Floats]:
    """Where each step of a front begins, and its level; the first begins at minus infinity, at the floor."""
    inside = (latency < ceiling) & (accuracy > floor)
    points = np.column_stack([latency[inside], accuracy[inside]])
    front = points[non_dominated(points, maximise=(False, True))]
    front = np.unique(front, axis=0)  # by latency
    return np.append(-np.inf, front[:, 0]), np.append(floor, front[:, 1])


def gain(latency: Floats, accuracy: Floats, front: tuple[Floats, Floats], floor: float, ceiling: float) -> Floats:
    """Gain in hypervolume of nets whose accuracy is known; arguments and unit as of :func:`expected_gain`."""
    begins, levels = steps_of(*front, floor, ceiling)  # (S,)
    ends = np.append(begins[1:], ceiling)
    widths = np.maximum(0.0, ends - np.maximum(latency[:, None], begins))  # (N, S)
    return np.asarray(np.sum(widths * np.maximum(0.0, accuracy[:, None] - levels), axis=1))


def expected_gain(
    latency: Floats, mean: Floats, spread: Floats, front: tuple[Floats, Floats], floor: float, ceiling: float
) -> Floats:
    """Expected gain in hypervolume, in units of latency times accuracy.

    Args:
        latency: (N,) of the nets.
        mean: (N,) expected accuracy.
        spread: (N,) its standard deviation.
        front: latency and accuracy of the nets that are there, (M,) each; dominated ones change nothing.
        floor: accuracy that counts as nothing.
        ceiling: latency that counts as nothing.
    """
    begins, levels = steps_of(*front, floor, ceiling)
    ends = np.append(begins[1:], ceiling)
    gain = np.zeros(len(latency))
    for begin, end, level in zip(begins, ends, levels, strict=True):
        width = np.maximum(0.0, end - np.maximum(latency, begin))
        gain += width * expected_excess(mean, spread, float(level))
    return gain
