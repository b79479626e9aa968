"""A search on a table, and what it had found after each epoch that it spent."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from vnas.config import GatesConfig, RungsConfig, SamplerName
from vnas.search.engine.driver import Driver
from vnas.search.engine.ledger import Ledger
from vnas.search.engine.reporting import Silent
from vnas.search.engine.rules import Rules
from vnas.search.policy.promotion import Limits
from vnas.search.tabular.problem import TableEvaluator, TableProblem
from vnas.search.tabular.simulated import SimulatedExecutor
from vnas.search.tabular.table import Table

RUNGS = RungsConfig()


@dataclass(frozen=True)
class Found:
    """What a search on a table came to.

    Attributes:
        epochs: (N,) spent in all when each candidate was judged at the last rung, ascending.
        rows: (N,) of those candidates.
        measured: candidates whose latency was looked up.
        trained: candidates that were trained, to the first rung at least.
        saved: candidates that each gate turned away.
    """

    epochs: tuple[float, ...]
    rows: tuple[int, ...]
    measured: int
    trained: int
    saved: dict[str, int]

    def share(self, table: Table, epochs: float, budget_ms: float | None = None) -> float:
        """Hypervolume after so many epochs, as a share of what the whole table has."""
        rows = [row for at, row in zip(self.epochs, self.rows, strict=True) if at <= epochs]
        return table.hypervolume(rows, budget_ms) / table.optimum(budget_ms)


def rules_of(
    table: Table,
    *,
    epochs: float,
    sampler: SamplerName = "local",
    seed: int = 0,
    budget_ms: float | None = None,
    last: bool = True,
    always: int = RUNGS.always,
    gates: GatesConfig | None = None,
) -> Rules:
    """Rules of a search on a table, which has a study's defaults; arguments as of :func:`search_table`."""
    error, latency_ms = table.reference
    return Rules(
        sampler,
        Limits(candidates=len(table), epochs=epochs, seconds=None, spend=RUNGS.spend, last=last),
        seed=seed,
        budget_ms=budget_ms,
        gates=gates or GatesConfig(),
        always=always,
        floor=100.0 - error,
        ceiling_ms=latency_ms,
    )


def search_table(
    table: Table,
    *,
    epochs: float,
    sampler: SamplerName = "local",
    seed: int = 0,
    budget_ms: float | None = None,
    last: bool = True,
    always: int = RUNGS.always,
    slots: int = 1,
    gates: GatesConfig | None = None,
) -> Found:
    """Search a table until so many epochs are spent.

    Args:
        table: the answers.
        epochs: of training in all; looking up a latency costs none.
        sampler: by name.
        seed: of the sampler, and of which of several trainings a candidate has.
        budget_ms: the most latency.
        last: whether nobody goes on to another rung before the last candidate was begun.
        always: first candidates of a rung that go on in any case.
        slots: candidates that are trained at once, by the simulated clock.
        gates: which are on; all without it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"])
    problem = TableProblem(table)
    rules = rules_of(
        table, epochs=epochs, sampler=sampler, seed=seed, budget_ms=budget_ms, last=last, always=always, gates=gates
    )
    driver = Driver(problem, Ledger(study, problem.choices, "table"), rules, Silent())
    driver.run(SimulatedExecutor(TableEvaluator(table, seed), slots))
    judged = [trial for trial in study.get_trials(deepcopy=False) if _judged(trial)]
    spent, at, rows = 0.0, [], []
    for trial in sorted(judged, key=lambda trial: float(trial.user_attrs["finished_at"])):
        begun = 1 if "continues" in trial.user_attrs else 0
        spent += sum(rung["epochs_spent"] for rung in trial.user_attrs["rungs"][begun:])
        if trial.state == TrialState.COMPLETE:
            at.append(spent)
            rows.append(int(trial.user_attrs["row"]))
    measured = sum(1 for entry in driver.book.entries.values() if entry.latency_ms is not None)
    return Found(tuple(at), tuple(rows), measured, driver.book.counted, driver.book.saved())


def _judged(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get("rungs")) and "duplicate_of" not in trial.user_attrs
