"""What a sampler is told: a study of its own in memory, apart from the storage's.

    storage        every trial as it went: rungs, continuations, rejections, values at the last rung
    sampler sees   every candidate once: accuracy at the first rung, latency, the same constraints in the same order

So it never sees two fidelities mixed, and a candidate that was rejected untrained is not lost on it: a rejected one
counts as complete, with the accuracy that nets of about its latency have (the median of the nearest) and, where it was
not measured either, the latency that nets usually have (the median of all), because a Gaussian process that learned
nothing from a rejection would propose it again.
"""

from __future__ import annotations

import statistics
import warnings
from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from vnas.search.sampling.encoding import Choices, Draw, Encoding, ordered
from vnas.search.sampling.local import LocalSampler
from vnas.search.sampling.past import ACCURACY, LATENCY, POSTPONED
from vnas.search.sampling.samplers import Name, make
from vnas.search.sampling.surrogate import Guess, Surrogate

NEIGHBOURS = 5
"""Nets that an imputed accuracy is the median of: those nearest in latency."""
ENOUGH = 20
"""Answers before anything is guessed."""
SURE = 2.0
"""Standard deviations, noise included, from the mean of a guess to its ends."""
LEARN_FROM = 300
"""Answers that a guess is made from at most: the last."""


@dataclass(frozen=True)
class Told:
    """What became known of a draw.

    Attributes:
        accuracy: at the first rung, in percent; None where it was not trained.
        objectives: the others, in the study's order, to be minimised; latency first. None where it was not measured.
        constraints: by name; 0 or less where they are kept.
        postponed: whether it was not trained because another promised more, and may be proposed again.
    """

    accuracy: float | None
    objectives: tuple[float, ...] | None
    constraints: Mapping[str, float]
    postponed: bool = False


class Suggester:
    """Asks a sampler and tells it.

    Args:
        name: of the sampler.
        choices: what each name may be.
        absent: names that a draw makes irrelevant.
        objectives: beside the accuracy.
        seed: of the study.
        expected: candidates that the study will come to.
        floor: accuracy in percent that counts as nothing.
        ceiling_ms: latency that counts as nothing.
        budget_ms: the most latency.
        trials: that the study has already, whatever became of them.
    """

    def __init__(
        self,
        name: Name,
        choices: Choices,
        absent: Callable[[Draw], Collection[str]],
        *,
        objectives: int = 1,
        seed: int,
        expected: int,
        floor: float = 0.0,
        ceiling_ms: float | None = None,
        budget_ms: float | None = None,
        trials: int = 0,
    ) -> None:
        self._choices = choices
        # NSGA-II, the grid and ours take a choice as it is; a model of numbers does better with their order.
        by_place = name in ("tpe", "gp")
        self._places = {key: by_place and ordered(options) for key, options in choices.items()}
        self._distributions = {key: self._distribution(key) for key in choices}
        sampler = make(
            name,
            choices,
            absent,
            seed=seed,
            trials=trials,
            expected=expected,
            floor=floor,
            ceiling_ms=ceiling_ms,
            budget_ms=budget_ms,
        )
        self._study = optuna.create_study(
            directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * objectives], sampler=sampler
        )
        self._objectives: list[list[float]] = [[] for _ in range(objectives)]  # of all measured, each in order
        self._open: dict[int, optuna.Trial] = {}
        self._latencies: list[float] = []  # of all trained, in order
        self._accuracies: list[float] = []  # of the same
        self._accuracy_model = _Guesser(choices, absent)
        self._latency_model = _Guesser(choices, absent)

    def ask(self, *, only_measured: bool = False, looks_again: bool = True) -> tuple[int, dict[str, Any]]:
        """A token for :meth:`tell`, and the sampler's draw.

        Args:
            only_measured: choose among what was put off, if the sampler puts off and there is any.
            looks_again: whether the draw may still be put off once it is measured.
        """
        if isinstance(self._study.sampler, LocalSampler):
            self._study.sampler.only_measured = only_measured
            self._study.sampler.looks_again = looks_again
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(fixed_distributions=self._distributions)
        self._open[trial.number] = trial
        return trial.number, {key: self._choice(key, trial.params[key]) for key in self._choices}

    def begin(self, draw: Draw) -> int:
        """A token for a draw that the sampler did not choose."""
        self._study.enqueue_trial({key: self._parameter(key, draw[key]) for key in self._choices})
        token, _ = self.ask()
        return token

    def know(self, token: int, latency_ms: float) -> None:
        """A latency that was measured, while the training goes on."""
        self._open[token].set_user_attr(LATENCY, latency_ms)

    def keeps_promise(self, token: int, latency_ms: float) -> bool:
        """Whether a draw that the sampler chose by a predicted latency would be chosen by the measured one too."""
        sampler = self._study.sampler
        return not isinstance(sampler, LocalSampler) or sampler.keeps_promise(token, latency_ms)

    def guess_accuracy(self, draw: Draw) -> Guess | None:
        """Accuracy at the first rung, in percent; None while too little is known."""
        return self._accuracy_model.guess(draw)

    def guess_latency(self, draw: Draw) -> Guess | None:
        """Latency in ms; None while too little is known."""
        guess = self._latency_model.guess(draw)
        return None if guess is None else Guess(float(np.exp(guess.low)), float(np.exp(guess.high)))

    def tell(self, token: int, told: Told) -> None:
        """What became of a draw."""
        trial = self._open.pop(token)
        objectives, accuracy = told.objectives, told.accuracy
        if objectives is None:
            if not self._objectives[0]:
                self._study.tell(trial, state=TrialState.FAIL)
                return
            objectives = tuple(statistics.median(values) for values in self._objectives)
        else:
            self._learn(trial, objectives, accuracy)
        for key, value in told.constraints.items():
            trial.set_constraint(key, value)
        if told.postponed:
            trial.set_user_attr(POSTPONED, True)
        if accuracy is None:
            accuracy = self._usual(objectives[0])
        self._study.tell(trial, (accuracy, *objectives))

    def drop(self, token: int) -> None:
        """Forget a draw without an answer."""
        self._study.tell(self._open.pop(token), state=TrialState.FAIL)

    def _learn(self, trial: optuna.Trial, objectives: tuple[float, ...], accuracy: float | None) -> None:
        latency = objectives[0]
        for values, value in zip(self._objectives, objectives, strict=True):
            insort(values, value)
        draw = {key: self._choice(key, trial.params[key]) for key in self._choices}
        self._latency_model.add(draw, float(np.log(latency)))
        trial.set_user_attr(LATENCY, latency)
        if accuracy is not None:
            trial.set_user_attr(ACCURACY, accuracy)
            self._accuracy_model.add(draw, accuracy)
            at = bisect_right(self._latencies, latency)
            self._latencies.insert(at, latency)
            self._accuracies.insert(at, accuracy)

    def _usual(self, latency: float) -> float:
        """Of equally near ones those with the lesser latency count, of equal ones the last."""
        if not self._accuracies:
            return 0.0
        at = bisect_right(self._latencies, latency)
        around = range(max(0, at - NEIGHBOURS), min(len(self._latencies), at + NEIGHBOURS))
        nearest = sorted(around, key=lambda place: abs(self._latencies[place] - latency))[:NEIGHBOURS]
        return statistics.median(self._accuracies[place] for place in nearest)

    def _distribution(self, key: str) -> BaseDistribution:
        options = self._choices[key]
        return IntDistribution(0, len(options) - 1) if self._places[key] else CategoricalDistribution(tuple(options))

    def _parameter(self, key: str, choice: Any) -> Any:
        return sorted(self._choices[key]).index(choice) if self._places[key] else choice

    def _choice(self, key: str, parameter: Any) -> Any:
        return sorted(self._choices[key])[parameter] if self._places[key] else parameter


class _Guesser:
    """A model of one answer that is learned anew when there are a tenth more answers."""

    def __init__(self, choices: Choices, absent: Callable[[Draw], Collection[str]]) -> None:
        self._encoding, self._absent = Encoding(choices), absent
        self._model = Surrogate(self._encoding)
        self._draws: list[Draw] = []
        self._answers: list[float] = []
        self._learned = 0

    def add(self, draw: Draw, answer: float) -> None:
        self._draws.append(draw)
        self._answers.append(answer)

    def guess(self, draw: Draw) -> Guess | None:
        if len(self._answers) < ENOUGH:
            return None
        if len(self._answers) >= 1.1 * self._learned:
            self._learned = len(self._answers)
            self._model.fit(self._points(self._draws[-LEARN_FROM:]), np.array(self._answers[-LEARN_FROM:]))
        found = self._model.predict(self._points([draw]))
        off = SURE * float(np.hypot(found.spread[0], found.noise))
        return Guess(float(found.mean[0]) - off, float(found.mean[0]) + off)

    def _points(self, draws: Sequence[Draw]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._encoding.points(draws, [self._absent(draw) for draw in draws])
