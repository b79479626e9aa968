"""The samplers by name, each with what makes it work on this kind of space.

    local    mutations of the front, chosen by a model (``local``)
    tpe      Optuna's tree-structured Parzen estimator, multivariate: the encoding has one length whatever the depth
    gp       Optuna's Gaussian process
    nsga2    Optuna's NSGA-II
    random   independent uniform draws
    grid     every draw once, in random order, for ablations on small spaces

Optuna keeps no generator's state: a study that goes on with its seed would repeat its first draws. So the seed of a
sampler is made of the study's and of the number of trials there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import numpy as np
import optuna

from vnas.search.sampling.encoding import Choices, Draw
from vnas.search.sampling.grid import GridSampler
from vnas.search.sampling.local import LocalSampler

Name = Literal["local", "tpe", "gp", "nsga2", "random", "grid"]


def make(
    name: Name,
    choices: Choices,
    absent: Callable[[Draw], Collection[str]],
    *,
    seed: int,
    trials: int,
    expected: int,
    floor: float,
    ceiling_ms: float | None,
    budget_ms: float | None = None,
) -> optuna.samplers.BaseSampler:
    """A sampler.

    Args:
        name: which.
        choices: what each name may be.
        absent: names that a draw makes irrelevant.
        seed: of the study.
        trials: that there are already.
        expected: candidates that the study will come to, for the size of a population.
        floor: accuracy in percent that counts as nothing (``local``).
        ceiling_ms: latency that counts as nothing (``local``).
        budget_ms: the most latency (``local``).

    Raises:
        ConfigError: a grid that is too large.
    """
    derived = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
    if name == "local":
        return LocalSampler(choices, absent, floor=floor, ceiling_ms=ceiling_ms, budget_ms=budget_ms, seed=derived)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=derived, multivariate=True, constant_liar=True)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=derived)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=derived, population_size=max(8, min(50, expected // 4)))
    if name == "grid":
        return GridSampler(choices, seed=seed)
    return optuna.samplers.RandomSampler(seed=derived)
