"""Local search with a model: mutations of the front, of which the one that promises most is tried.

    front of what was tried --mutate--> some hundred draws --model--> expected gain in hypervolume --greatest--> next

Local search is a strong method for architecture search without any model (White et al. 2021); the model decides which
of the many neighbours is worth its epochs. The first draws are random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from vnas.pareto import non_dominated
from vnas.search.sampling.encoding import Choices, Draw, Encoding, Floats, some_uniform, uniform
from vnas.search.sampling.improvement import expected_gain
from vnas.search.sampling.past import Past, Reader
from vnas.search.sampling.surrogate import Surrogate

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

STARTUP = 10
MUTANTS, STRANGERS = 200, 50
SECOND_CHANGE = 0.3
"""Probability that a mutation changes a second name."""
OPTIMISM = 2.0
"""Standard deviations by which a latency is thought to be better than predicted, because a look at it is cheap."""
LEARN_FROM = 300
"""Answers that a model learns from at most: a random part where there are more."""


class LocalSampler(BaseSampler):
    """Proposes the mutation of the front with the greatest expected gain in hypervolume.

    Args:
        choices: what each name may be.
        absent: names that a draw makes irrelevant.
        floor: accuracy that counts as nothing.
        ceiling_ms: latency that counts as nothing; without it, the greatest seen.
        budget_ms: the most latency; what is predicted to be slower is not proposed while anything else is there.
        seed: of its random numbers.

    Attributes:
        only_measured: whether to choose among the draws that were measured and put off, where there are any.
        looks_again: whether a draw may be put off once it is measured; latencies are then hoped for, else expected.
    """

    def __init__(
        self,
        choices: Choices,
        absent: Callable[[Draw], Collection[str]],
        *,
        floor: float = 0.0,
        ceiling_ms: float | None = None,
        budget_ms: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._choices = {name: tuple(options) for name, options in choices.items()}
        self._absent = absent
        self._floor, self._ceiling, self._budget = floor, ceiling_ms, budget_ms
        self._encoding = Encoding(self._choices)
        self._accuracy, self._latency = Surrogate(self._encoding), Surrogate(self._encoding)
        self._rng = np.random.default_rng(seed)
        self._promises: dict[int, _Promise] = {}
        self._source: tuple[BaseStorage, int] | None = None  # of the study that the reader reads
        self.only_measured = False
        self.looks_again = True
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
        past = self._past(study, trial)
        self._promises = {number: self._promises[number] for number in past.under_way if number in self._promises}
        if past.judged.sum() < STARTUP:
            return self._new(past)
        latency, accuracy = past.latency[past.judged], past.accuracy[past.judged]
        ceiling = self._ceiling if self._ceiling is not None else float(latency.max())
        draws, points, measured = self._candidates(past, ceiling)
        if not draws:
            return self._new(past)
        model = self._accuracy.fit(*self._part(past.points[past.judged], accuracy))
        pace = self._latency.fit(*self._part(past.points[past.measured], np.log(past.latency[past.measured])))
        expected = model.predict(points)
        hoped = pace.predict(points)
        at = np.where(np.isnan(measured), np.exp(hoped.mean - OPTIMISM * self.looks_again * hoped.spread), measured)
        if past.running.any():  # believed to be what is expected of them
            waiting = past.points[past.running]
            guessed = np.where(
                np.isnan(past.latency[past.running]), np.exp(pace.predict(waiting).mean), past.latency[past.running]
            )
            latency, accuracy = np.append(latency, guessed), np.append(accuracy, model.predict(waiting).mean)
        gain = expected_gain(at, expected.mean, expected.spread, (latency, accuracy), self._floor, ceiling)
        if self._budget is not None:
            over = at > self._budget
            # Where all are too slow, the fastest is the way back.
            gain = np.where(over, -1.0, gain) if not over.all() else -at
        best = int(np.argmax(gain))
        others = np.delete(gain, best)
        self._promises[trial.number] = _Promise(
            *(expected.mean[[best]], expected.spread[[best]], (latency, accuracy), self._floor, ceiling),
            others=float(others.max()) if len(others) else 0.0,
        )
        return draws[best]

    def keeps_promise(self, number: int, latency_ms: float) -> bool:
        """Whether a draw, now that its latency is measured, still promises as much as any other did."""
        promise = self._promises.pop(number, None)
        return promise is None or promise.gain(latency_ms) >= promise.others

    def _candidates(self, past: Past, ceiling: float) -> tuple[list[dict[str, Any]], Floats, Floats]:
        """Draws that were not trained, their points, and their latencies where they are known."""
        postponed = list(past.postponed)
        if self.only_measured and postponed:
            return [dict(past.draws[at]) for at in postponed], past.points[postponed], past.latency[postponed]
        judged = np.flatnonzero(past.judged & (past.latency < ceiling))
        if len(judged) == 0:
            judged = np.flatnonzero(past.judged)
        objectives = np.column_stack([past.latency[judged], past.accuracy[judged]])
        parents = judged[non_dominated(objectives, maximise=(False, True))]
        draws = self._neighbours([past.draws[at] for at in parents])
        points = self._points(draws)
        # Each point once: a promise is compared with that of another draw.
        fresh = [at for at in np.flatnonzero(_firsts(points)).tolist() if not past.has(points[at])]
        return (
            [draws[at] for at in fresh] + [dict(past.draws[at]) for at in postponed],
            np.vstack([points[fresh], past.points[postponed]]),
            np.append(np.full(len(fresh), np.nan), past.latency[postponed]),
        )

    def _past(self, study: optuna.Study, trial: FrozenTrial) -> Past:
        source = study._storage, study._study_id
        if source != self._source:
            self._source, self._reader = source, Reader(tuple(self._choices), self._points)
        return self._reader.read(study.get_trials(deepcopy=False), trial.number)

    def _points(self, draws: Sequence[Draw]) -> Floats:
        return self._encoding.points(draws, [self._absent(draw) for draw in draws])

    def _new(self, past: Past) -> dict[str, Any]:
        """A random draw that was not tried, if a hundred tries find one."""
        for _ in range(100):
            draw = uniform(self._choices, self._rng)
            if not past.has(self._points([draw])[0]):
                break
        return draw

    def _neighbours(self, parents: Sequence[Draw]) -> list[dict[str, Any]]:
        absent = [set(self._absent(parent)) for parent in parents]
        names = [[name for name in self._choices if name not in meaningless] for meaningless in absent]
        found = some_uniform(self._choices, self._rng, STRANGERS)
        # What is chosen one after the other is a share of what there is: its own number in [0, 1) for each choice.
        for which, often, first, second, *shares in self._rng.random((MUTANTS, 6)).tolist():
            parent = int(which * len(parents))
            draw = dict(parents[parent])
            changed = _one_or_two(names[parent], often < SECOND_CHANGE, first, second)
            for name, share in zip(changed, shares, strict=False):  # one of the two is left where one name changes
                options = self._choices[name]
                draw[name] = options[_other(len(options), options.index(draw[name]), share)]
            found.append(draw)
        return found

    def _part(self, points: Floats, answers: Floats) -> tuple[Floats, Floats]:
        if len(points) <= LEARN_FROM:
            return points, answers
        rows = np.sort(self._rng.choice(len(points), size=LEARN_FROM, replace=False))
        return points[rows], answers[rows]


@dataclass(frozen=True)
class _Promise:
    """What was expected of a draw when it was chosen, and what the next best one promised."""

    mean: Floats
    spread: Floats
    front: tuple[Floats, Floats]
    floor: float
    ceiling: float
    others: float

    def gain(self, latency_ms: float) -> float:
        at = np.array([latency_ms])
        return float(expected_gain(at, self.mean, self.spread, self.front, self.floor, self.ceiling)[0])


def _one_or_two(names: Sequence[str], two: bool, share: float, another: float) -> list[str]:
    """One of some names, or two where there are so many."""
    first = int(share * len(names))
    if not two or len(names) == 1:
        return [names[first]]
    return [names[first], names[_other(len(names), first, another)]]


def _other(count: int, place: int, share: float) -> int:
    """A place below ``count`` that is not this one."""
    other = int(share * (count - 1))
    return other + (other >= place)


def _firsts(points: Floats) -> npt.NDArray[np.bool_]:
    """(N,) whether no row before is the same."""
    first = {row.tobytes(): at for at, row in reversed(list(enumerate(points)))}
    mask = np.zeros(len(points), dtype=bool)
    mask[list(first.values())] = True
    return mask
