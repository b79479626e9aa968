"""A problem whose every answer is plain arithmetic, workers that can be made to fail, and a study of both.

draw      a, b in 0 .. 5
latency   1 + a + 0.01 b ms
accuracy  40 + 6 a + b - 20 (last rung's index - rung) percent: more latency, more accuracy
costs     params = 100 (1 + a) + b
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from vnas.errors import ConfigError
from vnas.search.engine.driver import Driver
from vnas.search.engine.inline import InlineExecutor
from vnas.search.engine.ledger import Ledger
from vnas.search.engine.protocol import Attributes, Event, Executor, Failure, Job, Subject
from vnas.search.engine.reporting import Reporter, TrialLine
from vnas.search.engine.rules import Rules
from vnas.search.policy.promotion import Limits
from vnas.search.sampling.suggester import Suggester, Told

NAME = "fake"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class WorkerDiedError(Exception):
    """What :class:`Workers` make of this is a death of the worker."""


class Quiet:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[TrialLine] = []
        self.notes: list[str] = []
        self.started: tuple[int, int] | None = None

    def search_started(self, done: int, total: int) -> None:
        self.started = (done, total)

    def trial_started(self, number: int, subject: Subject) -> None: ...

    def advanced(self, number: int, share: float) -> None: ...

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Sums:
    """The problem.

    Args:
        rungs: epochs in all.
        options: how many choices ``a`` and ``b`` have.
        holes: draws that name nothing.
    """

    def __init__(
        self,
        rungs: Sequence[float] = (1.0,),
        options: tuple[int, int] = (6, 6),
        holes: Callable[[int, int], bool] = lambda a, b: False,
    ) -> None:
        self.rungs = rungs
        self.choices: Mapping[str, Sequence[Any]] = {
            name: tuple(range(most)) for name, most in zip("ab", options, strict=True)
        }
        self.size = options[0] * options[1]
        self._holes = holes

    def subject(self, draw: Mapping[str, Any]) -> Subject:
        a, b = draw["a"], draw["b"]
        if self._holes(a, b):
            raise ConfigError(f"nothing at {a}, {b}")
        digest = f"{a}-{b}"
        params = 100.0 * (1 + a) + b
        names = {"digest": digest, "candidate": digest, "description": f"a={a} b={b}", "depth": a}
        return Subject(digest, digest, {**names, "params": params}, {"params": params})

    def absent(self, draw: Mapping[str, Any]) -> tuple[str, ...]:
        return ()

    def latency_key(self, attributes: Mapping[str, Any]) -> str | None:
        return attributes.get("digest")

    latency_attributes = ("latency_ms", "energy_mj", "latency")


def latency_of(digest: str) -> float:
    a, b = map(int, digest.split("-"))
    return 1.0 + a + 0.01 * b


def accuracy_of(digest: str, below: int) -> float:
    """At so many rungs below the last."""
    a, b = map(int, digest.split("-"))
    return 40.0 + 6.0 * a + b - 20.0 * below


@dataclass
class Answers:
    """The evaluator.

    Attributes:
        rungs: of the problem.
        trainings: what each training does, one after the other: an error to raise, or an accuracy; the usual answer
            when it runs out, and for None.
        deeds: what is done for a candidate at a rung, whenever it is asked for.
        asked: kind, digest and rung of each job that was begun.
        answered: digest and rung of each training that came to its end.
        reached: rung that each candidate is kept at.
    """

    rungs: Sequence[float] = (1.0,)
    trainings: list[Any] = field(default_factory=list)
    deeds: dict[tuple[str, int], BaseException] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    answered: list[tuple[str, int]] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)

    def measure(self, subject: Subject) -> Attributes:
        self.asked.append(("measure", subject.digest, 0))
        latency_ms = latency_of(subject.digest)
        return {"latency_ms": latency_ms, "energy_mj": 10.0 / latency_ms, "latency": {"median_ms": latency_ms}}

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> Attributes:
        self.asked.append(("train", subject.digest, rung))
        progress(0.5)
        step = self.trainings.pop(0) if self.trainings else self.deeds.get((subject.digest, rung))
        if isinstance(step, BaseException):
            raise step
        self.answered.append((subject.digest, rung))
        goes_on = rung and self.reached.get(subject.digest) == rung - 1
        spent = self.rungs[rung] - (self.rungs[rung - 1] if goes_on else 0.0)
        self.reached[subject.digest] = rung
        accuracy = accuracy_of(subject.digest, len(self.rungs) - 1 - rung) if step is None else step
        return {
            "val_top1": accuracy,
            "epochs": self.rungs[rung],
            "epochs_spent": spent,
            "training": {"rung": rung},
            "seconds": spent,
        }

    def trained(self) -> Counter[tuple[str, int]]:
        """How often each candidate came to each rung."""
        return Counter(self.answered)

    def jobs(self, kind: str) -> list[tuple[str, int]]:
        return [(digest, rung) for what, digest, rung in self.asked if what == kind]


class Workers(InlineExecutor):
    """Works here, by a clock of its own; ``WorkerDiedError`` is the death of a worker.

    Args:
        evaluator: that answers.
        look: seconds of a measurement; a training has one.
    """

    def __init__(self, evaluator: Answers, look: float = 0.0) -> None:
        super().__init__(evaluator, lambda trial, share: None)
        self.submitted: list[Job] = []
        self._seconds = {"measure": look, "train": 1.0}
        self._now = 0.0

    def clock(self) -> float:
        return self._now

    def submit(self, job: Job) -> None:
        self.submitted.append(job)
        super().submit(job)

    def wait(self, seconds: float) -> Event | None:
        event = super().wait(seconds)
        self._now += self._seconds[event.job.kind] if event is not None else 0.0
        if isinstance(event, Failure) and "WorkerDiedError" in (event.traceback or ""):
            return replace(event, fault="worker", reason="the worker was killed", traceback=None)
        return event


class Remembered(Suggester):
    """A suggester that keeps what it was told."""

    told: list[tuple[dict[str, Any], Told]]

    def tell(self, token: int, told: Told) -> None:
        trial = self._open[token]
        draw = {key: self._choice(key, trial.params[key]) for key in self._choices}
        super().tell(token, told)
        self.told = [*getattr(self, "told", []), (draw, told)]


@dataclass
class Lab:
    """A study of sums, and whoever works on it.

    Attributes:
        problem: what is searched.
        rules: of the study.
        storage: where its trials are.
        answers: the evaluator, the same for every driver: it counts what was ever trained.
    """

    problem: Sums
    rules: Rules
    storage: BaseStorage = field(default_factory=InMemoryStorage)
    answers: Answers = field(default_factory=Answers)
    reporter: Quiet = field(default_factory=Quiet)

    def __post_init__(self) -> None:
        self.answers.rungs = self.problem.rungs
        directions = ["maximize", *["minimize"] * len(self.rules.objectives)]
        optuna.create_study(storage=self.storage, study_name=NAME, directions=directions)

    def ledger(self, owner: str = "here", storage: BaseStorage | None = None) -> Ledger:
        study = optuna.load_study(storage=storage or self.storage, study_name=NAME)
        return Ledger(study, self.problem.choices, owner)

    def driver(
        self,
        *,
        shared: bool = False,
        owner: str = "here",
        storage: BaseStorage | None = None,
        reporter: Reporter | None = None,
        **rules: Any,
    ) -> Driver:
        """A driver that has recovered what was left."""
        made = Driver(
            self.problem,
            self.ledger(owner, storage),
            replace(self.rules, **rules),
            reporter or self.reporter,
            shared=shared,
        )
        made.recover()
        return made

    def run(self, executor: Executor | None = None, **changes: Any) -> Driver:
        driver = self.driver(**changes)
        driver.run(executor or Workers(self.answers))
        return driver

    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(storage=self.storage, study_name=NAME).get_trials()

    def finished(self) -> dict[int, FrozenTrial]:
        """Those that were judged, complete or stopped, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return {trial.number: trial for trial in self.trials() if trial.state in states}

    def states(self) -> Counter[str]:
        return Counter(trial.state.name for trial in self.trials())


def lab(
    trials: int = 8,
    *,
    rungs: Sequence[float] = (1.0,),
    options: tuple[int, int] = (6, 6),
    holes: Callable[[int, int], bool] = lambda a, b: False,
    storage: BaseStorage | None = None,
    epochs: float | None = None,
    seconds: float | None = None,
    spend: float = 0.5,
    last: bool = False,
    **rules: Any,
) -> Lab:
    """A study of so many candidates, drawn at random unless said otherwise."""
    limits = Limits(candidates=trials, epochs=epochs, seconds=seconds, spend=spend, last=last)
    named = {"sampler": "random", **rules}
    kept = {} if storage is None else {"storage": storage}
    return Lab(Sums(rungs, options, holes), Rules(limits=limits, **named), **kept)
