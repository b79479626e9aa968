"""Every draw of a small space once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from vnas.errors import ConfigError
from vnas.search.sampling.encoding import Choices

if TYPE_CHECKING:
    import optuna

LIMIT = 1_000_000


class GridSampler(BaseSampler):
    """Goes through all draws in an order that the seed decides; those that were tried already are left out.

    Optuna's own grid ends a study by itself, which only works inside its ``optimize``.

    Args:
        choices: what each name may be.
        seed: of the order.

    Raises:
        ConfigError: there are more than a million draws.
    """

    def __init__(self, choices: Choices, *, seed: int) -> None:
        self._choices = {name: tuple(options) for name, options in choices.items()}
        self._shape = tuple(len(options) for options in self._choices.values())
        size = math.prod(self._shape)
        if size > LIMIT:
            raise ConfigError(
                f"sampler = 'grid' would try {size:,} draws; it takes at most {LIMIT:,}. Give the space fewer "
                "choices, or take sampler = 'random'"
            )
        self._order = iter(np.random.default_rng(seed).permutation(size).tolist())
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every name."""
        return {name: CategoricalDistribution(options) for name, options in self._choices.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next draw; where there is none left, nothing, so that every name is drawn at random."""
        tried = {
            tuple(other.params.get(name) for name in self._choices)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
        }
        for place in self._order:
            at = np.unravel_index(place, self._shape)
            draw = {name: options[i] for (name, options), i in zip(self._choices.items(), at, strict=True)}
            if tuple(draw.values()) not in tried:
                return draw
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random choice."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
