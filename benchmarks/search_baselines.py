"""Searches of a table without vnas' engine: Optuna as its users run it, and forty lines of local search.

They see the same single training of a net (``TableEvaluator`` with the same seed) and the same latencies. What costs
nothing in vnas costs nothing here: a net over the latency budget is not trained, and a net that is drawn again has the
answer that it had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from benchmarks.search_curves import Curve, Step
from vnas.errors import ConfigError
from vnas.search.tabular.problem import TableEvaluator, TableProblem
from vnas.search.tabular.table import Option, Table

STUCK_AFTER = 5_000
"""Draws in a row without one that can be trained after which there is hardly any left."""
FIRST_RANDOM = 10
"""Random nets before local search has a front to start from."""

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Optuna's, with the settings they have by default; TPE is what a study with several objectives gets."""


class _Trainings:
    """What was asked of a table, and the curve that it makes."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table = table
        self.curve = Curve()
        self.measured: set[int] = set()
        self._trained: set[int] = set()
        self._problem, self._evaluator = TableProblem(table), TableEvaluator(table, seed)

    def latency(self, row: int) -> float:
        """In ms."""
        self.measured.add(row)
        return float(self.table.latency_ms[row])

    def train(self, row: int, rung: int) -> float:
        """Accuracy in percent; the epochs are spent that lie between this rung and where the net was."""
        found = self._evaluator.train(self._problem.subject(self.table.draw(row)), rung, lambda share: None)
        self._trained.add(row)
        full = row if rung + 1 == len(self.table.rungs) else None
        spent = self.curve.spent + found["epochs_spent"]
        self.curve.steps.append(Step(spent, len(self.measured), len(self._trained), full))
        return float(found["val_top1"])


def optuna_curve(table: Table, seed: int, epochs: float, sampler: str, budget_ms: float | None = None) -> Curve:
    """Ask, train to the last rung at once, tell.

    A net over the budget is told with the constraint that it breaks, at once, and with no accuracy: Optuna orders such
    trials by how much they break.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS[sampler](seed))
    space = {name: optuna.distributions.CategoricalDistribution(options) for name, options in table.choices.items()}
    work, known, fruitless = _Trainings(table, seed), dict[int, float](), 0
    while work.curve.spent + table.rungs[-1] <= epochs and len(known) < len(table) and fruitless < STUCK_AFTER:
        trial = study.ask(dict(space))
        try:
            row = table.row(trial.params)
        except ConfigError:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            fruitless += 1
            continue
        latency = work.latency(row)
        fruitless += 1
        if budget_ms is not None:
            trial.set_constraint("latency", latency - budget_ms)
        if budget_ms is None or latency <= budget_ms:
            if row not in known:
                known[row] = work.train(row, len(table.rungs) - 1)
                fruitless = 0
            study.tell(trial, (known[row], latency))
        else:
            study.tell(trial, (0.0, latency))
    return work.curve


def forty_lines(table: Table, seed: int, epochs: float, budget_ms: float | None = None) -> Curve:
    """Local search that knows its budget, without a model.

    For half of the budget nets are trained to the first rung: ten random ones, then each a random choice changed in a
    random net of the front of those. The rest goes to the last rung for those that add most hypervolume, by the
    accuracies of the first.
    """
    random, work = np.random.default_rng(seed), _Trainings(table, seed)
    names, ceiling = list(table.choices), table.reference[1]
    most = ceiling if budget_ms is None else min(budget_ms, ceiling)
    early: dict[int, float] = {}
    while work.curve.spent + table.rungs[0] <= epochs / 2:
        front = _front(table, early) if len(early) >= FIRST_RANDOM else []
        for _ in range(STUCK_AFTER):
            row = _row(table, _mutant(table, names, front, random))
            if row is not None and row not in early and work.latency(row) <= most:
                break
        else:
            break
        early[row] = work.train(row, 0)
    step = table.rungs[-1] - table.rungs[0]
    error = {row: 100.0 - accuracy for row, accuracy in early.items()}
    chosen: list[int] = []
    while len(chosen) < len(early) and work.curve.spent + step <= epochs and len(table.rungs) > 1:
        waiting = [row for row in early if row not in chosen]
        gains = [_area([(error[r], float(table.latency_ms[r])) for r in [*chosen, row]], table) for row in waiting]
        chosen.append(waiting[int(np.argmax(gains))])
        for rung in range(1, len(table.rungs)):
            work.train(chosen[-1], rung)
    return work.curve


def _mutant(table: Table, names: list[str], front: list[int], random: np.random.Generator) -> dict[str, Option]:
    """A net of the front with one choice drawn again; without a front, a random net."""
    draw = {name: _any(table.choices[name], random) for name in names}
    if front:
        name = names[int(random.integers(len(names)))]
        draw = {**table.draw(front[int(random.integers(len(front)))]), name: draw[name]}
    return draw


def _any(options: tuple[Option, ...], random: np.random.Generator) -> Option:
    return options[int(random.integers(len(options)))]


def _row(table: Table, draw: dict[str, Any]) -> int | None:
    try:
        return table.row(draw)
    except ConfigError:
        return None


def _front(table: Table, accuracy: dict[int, float]) -> list[int]:
    """Rows that none is faster than and at least as accurate, nor as fast and more accurate."""
    front: list[int] = []
    for row in sorted(accuracy, key=lambda row: (table.latency_ms[row], -accuracy[row])):
        if not front or accuracy[row] > accuracy[front[-1]]:
            front.append(row)
    return front


def _area(points: list[tuple[float, float]], table: Table) -> float:
    """Hypervolume of points of error and latency, by a sweep: written again, as a check of ``vnas.pareto``."""
    worst, ceiling = table.reference
    area, level = 0.0, worst
    for latency, error in sorted((latency, error) for error, latency in points):
        if latency < ceiling and error < level:
            area += (ceiling - latency) * (level - error)
            level = error
    return area
