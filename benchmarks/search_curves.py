"""What a search had found when it had spent so much, and the curve of a search of vnas on a table."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna

from vnas.search.engine.driver import Driver
from vnas.search.engine.ledger import Ledger
from vnas.search.engine.reporting import Silent, TrialLine
from vnas.search.sampling.samplers import Name
from vnas.search.tabular.problem import TableEvaluator, TableProblem
from vnas.search.tabular.running import rules_of
from vnas.search.tabular.simulated import SimulatedExecutor
from vnas.search.tabular.table import Table


@dataclass(frozen=True)
class Step:
    """A training that has ended.

    Attributes:
        spent: epochs of all trainings until then.
        measured: nets that a latency was asked of until then.
        trained: nets that were trained to a rung until then.
        row: of the table, where the net is trained in full now; None at a lower rung.
    """

    spent: float
    measured: int
    trained: int
    row: int | None


@dataclass
class Curve:
    """The trainings of one search, in the order of their end, and the CPU time of the search itself."""

    steps: list[Step] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def spent(self) -> float:
        """Epochs in all."""
        return self.steps[-1].spent if self.steps else 0.0

    @property
    def trained(self) -> int:
        """Nets in all."""
        return self.steps[-1].trained if self.steps else 0

    def until(self, epochs: float) -> Sequence[Step]:
        """The trainings that had ended when so much was spent."""
        return self.steps[: bisect.bisect_right(self.steps, epochs + 1e-6, key=lambda step: step.spent)]

    def share(self, table: Table, epochs: float, budget_ms: float | None) -> float:
        """Hypervolume of the nets trained in full by then, by their true accuracy, as a share of the optimum."""
        rows = [step.row for step in self.until(epochs) if step.row is not None]
        return table.hypervolume(rows, budget_ms) / table.optimum(budget_ms)

    def measured_per_trained(self, epochs: float) -> float | None:
        """Nets whose latency was asked for each one that was trained; None before the first."""
        steps = self.until(epochs)
        return steps[-1].measured / steps[-1].trained if steps else None


class EnoughError(Exception):
    """Ends a search whose curve is long enough."""


class ReadableLedger(Ledger):
    """One that says what it holds of a trial."""

    def attributes(self, number: int) -> dict[str, Any]:
        """User attributes of a trial of this driver."""
        return self._storage.get_trial(self._ids[number]).user_attrs


class Recorder(Silent):
    """Keeps the numbers of trials in the order of their end.

    Args:
        ledger: of the study.
        until: epochs after which it ends the search.
    """

    def __init__(self, ledger: ReadableLedger, until: float) -> None:
        self.curve = Curve()
        self._ledger, self._until = ledger, until
        self._judged: dict[str, int] = {}
        self._measured: set[str] = set()

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """Take in the trainings of a trial; those that it only took over are not its own."""
        attributes = self._ledger.attributes(line.number)
        digest = attributes.get("digest")
        if digest is None:
            return  # a draw that the table does not have
        if "latency_ms" in attributes:
            self._measured.add(digest)
        rungs: Sequence[Mapping[str, Any]] = attributes.get("rungs", ())
        spent = self.curve.spent
        for rung in range(self._judged.get(digest, 0), len(rungs)):
            spent += rungs[rung]["epochs_spent"]
            self._judged[digest] = rung + 1
            full = line.state == "complete" and rung + 1 == len(rungs)
            row = attributes["row"] if full else None
            self.curve.steps.append(Step(spent, len(self._measured), len(self._judged), row))
        if spent >= self._until:
            raise EnoughError


def searched(
    table: Table,
    seed: int,
    epochs: float,
    *,
    sampler: Name = "local",
    budget_ms: float | None = None,
    last: bool,
    until: float | None = None,
) -> Curve:
    """A search of vnas, with the settings that a study has by default.

    Args:
        table: what is searched.
        seed: of the search and of the trainings.
        epochs: that it may spend.
        sampler: by name.
        budget_ms: latency that a net may have.
        last: whether nobody goes on to the next rung before the last candidate was begun.
        until: epochs after which it is of no interest any more; ``epochs`` without it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = TableProblem(table)
    rules = rules_of(table, epochs=epochs, sampler=sampler, seed=seed, budget_ms=budget_ms, last=last)
    study = optuna.create_study(directions=["maximize", "minimize"])
    ledger = ReadableLedger(study, problem.choices, "benchmark")
    recorder = Recorder(ledger, epochs if until is None else until)
    driver = Driver(problem, ledger, rules, recorder)
    with suppress(EnoughError):
        driver.run(SimulatedExecutor(TableEvaluator(table, seed)))
    return recorder.curve
