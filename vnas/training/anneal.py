"""The slope lambda of deep training, at every step of a run.

    A'(x) = (1 - lambda) A(x) + lambda x        lambda: 0 -> 1

Only at lambda = 1 are the two convolutions of a pair one linear map, so a run must end there.
"""

from __future__ import annotations

import math

from vnas.config import Anneal

# Half a step of a run of 10^11 steps: what sums such as end + stagger lose in floats, and nothing else.
_ROUNDING = 1e-12


def slopes(anneal: Anneal, step: int, total_steps: int, pairs: int) -> tuple[float, ...]:
    """Lambda of every pair of convolutions at one step.

    The first step of a run is at progress 0, the last one at progress 1 (a run of a single step is at 1).
    A pair's lambda is 0 up to the start of its window and exactly 1 from the end on; at the last step every
    lambda is exactly 1, whatever the schedule.

    Args:
        anneal: the schedule; its start, end and stagger are shares of the run.
        step: the step, from 0.
        total_steps: steps of the run.
        pairs: pairs of convolutions of the net, first (stem) to last (head).

    Returns:
        One lambda in [0, 1] for each pair, first to last; none ever falls from a step to the next.

    Raises:
        ValueError: the step is not one of the run's.

    Source:
        VanillaNet (arXiv 2305.12972), equation 1, where lambda = e / E by epoch; here it moves by step.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is not one of a run of {total_steps} steps (0 to {total_steps - 1})")
    if step == total_steps - 1:
        return (1.0,) * pairs
    progress = step / (total_steps - 1)
    if anneal.stagger == 0.0 or pairs == 1:
        return (_slope(anneal, progress),) * pairs
    shifts = [anneal.stagger * index / (pairs - 1) for index in range(pairs)]
    if anneal.order == "deep_first":
        shifts.reverse()
    return tuple(_slope(anneal, progress - shift) for shift in shifts)


def _slope(anneal: Anneal, progress: float) -> float:
    if progress >= anneal.end - _ROUNDING:
        return 1.0
    if progress <= anneal.start:
        return 0.0
    t = (progress - anneal.start) / (anneal.end - anneal.start)
    if anneal.shape == "cosine":
        # sin^2(pi t / 2) is 0.5 (1 - cos(pi t)) without its cancellation near 0.
        return min(1.0, math.sin(0.5 * math.pi * t) ** 2)
    if anneal.shape == "step":
        return math.floor(t * anneal.steps + _ROUNDING) / anneal.steps
    return min(1.0, t)
