"""Local search with a model: mutations of the front, of which the one that promises most is tried.

    front of what was tried --mutate--> some hundred draws --model--> expected gain in hypervolume --greatest--> next

Local search is a strong method for architecture search without any model (White et al. 2021); the model decides which
of the many neighbours is worth its epochs. The first draws are random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from vnas.pareto import non_dominated
from vnas.search.sampling.encoding import Choices, Draw, Encoding, Floats
from vnas.search.sampling.improvement import expected_gain
from vnas.search.sampling.surrogate import Surrogate

if TYPE_CHECKING:
    import optuna

ACCURACY, LATENCY = "val_top1", "latency_ms"
"""User attributes of a trial that it learns from: what was found, never what was imputed for it."""

STARTUP = 10
MUTANTS, STRANGERS = 200, 50
SECOND_CHANGE = 0.3
"""Probability that a mutation changes a second name."""
LEARN_FROM = 300
"""Answers that a model learns from at most: the best, and a random part of the others."""


class LocalSampler(BaseSampler):
    """Proposes the mutation of the front with the greatest expected gain in hypervolume.

    Args:
        choices: what each name may be.
        absent: names that a draw makes irrelevant.
        floor: accuracy that counts as nothing.
        ceiling_ms: latency that counts as nothing; without it, the greatest seen.
        seed: of its random numbers.
    """

    def __init__(
        self,
        choices: Choices,
        absent: Callable[[Draw], Collection[str]],
        *,
        floor: float = 0.0,
        ceiling_ms: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._choices = {name: tuple(options) for name, options in choices.items()}
        self._absent = absent
        self._floor, self._ceiling = floor, ceiling_ms
        self._encoding = Encoding(self._choices)
        self._accuracy, self._latency = Surrogate(self._encoding), Surrogate(self._encoding)
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=int(self._rng.integers(2**31)))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every name, from the first trial on; Optuna does not need to find out."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(options) for name, options in self._choices.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random choice, for a name that this sampler was not told of."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next draw."""
        trials = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and other.params.keys() >= self._choices.keys()
        ]
        known = self._points([other.params for other in trials])
        latency = _attribute(trials, LATENCY)
        accuracy = _attribute(trials, ACCURACY)
        judged = ~np.isnan(accuracy) & ~np.isnan(latency)
        if judged.sum() < STARTUP:
            return self._new(known)
        ceiling = self._ceiling if self._ceiling is not None else float(latency[judged].max())
        seen = np.array([other.state != TrialState.RUNNING for other in trials]) & ~np.isnan(latency)
        front = np.flatnonzero(judged)[
            non_dominated(np.column_stack([latency[judged], accuracy[judged]]), maximise=(False, True))
        ]
        front = front[latency[front] < ceiling] if np.any(latency[front] < ceiling) else front
        draws = self._neighbours([trials[int(at)].params for at in front])
        points = self._points(draws)
        fresh = ~_among(points, known)
        if not fresh.any():
            return self._new(known)
        draws = [draw for draw, new in zip(draws, fresh, strict=True) if new]
        points = points[fresh]
        part = self._part(np.flatnonzero(judged), accuracy, latency)
        model = self._accuracy.fit(known[part], accuracy[part])
        part = self._part(np.flatnonzero(seen), accuracy, latency)
        at = np.exp(self._latency.fit(known[part], np.log(latency[part])).predict(points).mean)
        expected = model.predict(points)
        there = latency[judged], accuracy[judged]
        running = np.array([other.state == TrialState.RUNNING for other in trials])
        if running.any():  # believed to be what is expected of them
            there = (
                np.append(there[0], np.exp(self._latency.predict(known[running]).mean)),
                np.append(there[1], model.predict(known[running]).mean),
            )
        gain = expected_gain(at, expected.mean, expected.spread, there, self._floor, ceiling)
        return draws[int(np.argmax(gain))]

    def _points(self, draws: Sequence[Draw]) -> Floats:
        return self._encoding.points(draws, [self._absent(draw) for draw in draws])

    def _stranger(self) -> dict[str, Any]:
        return {name: options[int(self._rng.integers(len(options)))] for name, options in self._choices.items()}

    def _new(self, known: Floats) -> dict[str, Any]:
        """A random draw that was not tried, if a hundred tries find one."""
        for _ in range(100):
            draw = self._stranger()
            if not _among(self._points([draw]), known).any():
                break
        return draw

    def _neighbours(self, parents: Sequence[Draw]) -> list[dict[str, Any]]:
        found = [self._stranger() for _ in range(STRANGERS)]
        for _ in range(MUTANTS):
            draw = dict(parents[int(self._rng.integers(len(parents)))])
            meaningless = set(self._absent(draw))
            names = [name for name in self._choices if name not in meaningless]
            changes = min(len(names), 1 + int(self._rng.random() < SECOND_CHANGE))
            for name in self._rng.choice(names, size=changes, replace=False):
                others = [option for option in self._choices[name] if option != draw[name]]
                draw[str(name)] = others[int(self._rng.integers(len(others)))]
            found.append(draw)
        return found

    def _part(self, rows: np.ndarray[Any, np.dtype[np.intp]], accuracy: Floats, latency: Floats) -> Any:
        if len(rows) <= LEARN_FROM:
            return rows
        return np.sort(self._rng.choice(rows, size=LEARN_FROM, replace=False))


def _attribute(trials: Sequence[FrozenTrial], name: str) -> Floats:
    return np.array([trial.user_attrs.get(name, np.nan) for trial in trials], dtype=np.float64)


def _among(points: Floats, known: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    there = {row.tobytes() for row in known}
    return np.array([row.tobytes() in there for row in points], dtype=bool)
