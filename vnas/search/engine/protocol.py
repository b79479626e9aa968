"""What the engine needs of a problem, and what it and its workers say to each other.

    Problem     in the driver: what may vary, what a draw names, what its rungs cost
    Evaluator   in a worker: measures a candidate, trains it to a rung; of the front, trains it anew
    Executor    between them: takes jobs, gives back what became of them; processes, or a simulated clock

A table of known answers is a problem like real nets (``vnas.search.tabular``): the loop is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

Draw = Mapping[str, Any]
Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a draw names: a candidate.

    Attributes:
        digest: tells candidates apart.
        latency_key: candidates of one key have one latency (a net under two lambda schedules).
        attributes: what the storage keeps of it, as JSON values; ``description`` is one of them.
        costs: numbers that a constraint may be put on, known without measuring: ``params``, ``macs``.
    """

    digest: str
    latency_key: str
    attributes: Attributes = field(repr=False)
    costs: Mapping[str, float] = field(default_factory=dict)


class Problem(Protocol):
    """What is searched."""

    @property
    def choices(self) -> Mapping[str, Sequence[Any]]:
        """What each name may be, in the order of suggestion; at least two choices each."""

    @property
    def size(self) -> int:
        """Distinct draws, an upper bound on distinct candidates."""

    @property
    def rungs(self) -> Sequence[float]:
        """Epochs that a candidate has cost in all when it is judged at each rung, ascending."""

    def subject(self, draw: Draw) -> Subject:
        """What a complete draw names.

        Raises:
            VnasError: nothing that can exist.
        """

    def absent(self, draw: Draw) -> Collection[str]:
        """Names that have no meaning in a draw, whatever they are set to."""

    def latency_key(self, attributes: Mapping[str, Any]) -> str | None:
        """:attr:`Subject.latency_key` of a candidate, from what the storage holds of it; None where that is too little.

        What :meth:`Evaluator.measure` gives is kept for candidates of the same key.
        """

    @property
    def latency_attributes(self) -> Collection[str]:
        """Names of what :meth:`Evaluator.measure` gives."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is asked for.

    Attributes:
        trial: number of the trial.
        kind: ``measure`` the latency, ``train`` to a rung, or ``retrain`` with a fresh seed, for the front.
        subject: the candidate.
        rung: to train to, from 0.
        repeat: which of the fresh seeds, from 0.
    """

    trial: int
    kind: Literal["measure", "train", "retrain"]
    subject: Subject
    rung: int = 0
    repeat: int = 0


class Evaluator(Protocol):
    """What a worker does."""

    def measure(self, subject: Subject) -> Attributes:
        """``latency_ms`` of the fused net with fresh weights, and all else that the storage keeps of it.

        Raises:
            MeasurementError: it could not be measured.
        """

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> Attributes:
        """``val_top1`` at a rung in percent, ``epochs`` in all and ``epochs_spent`` now, and all else worth keeping.

        A simulated executor lets ``seconds`` of it pass.

        Args:
            subject: the candidate, which goes on from the rung below where this worker can find it.
            rung: from 0.
            progress: told the share that is done.

        Raises:
            TrainingError: the run ended early.
        """


class FrontEvaluator(Evaluator, Protocol):
    """One that is also given the nets of the front."""

    def retrain(self, subject: Subject, repeat: int, progress: Callable[[float], None]) -> Attributes:
        """Train a net anew, judge it on the test set, and keep its fused weights in a file.

        The answer has ``val_top1`` and ``test_top1`` in percent, ``epochs``, and all else worth keeping.

        Args:
            subject: the candidate.
            repeat: which of the fresh seeds, from 0.
            progress: told the share that is done.

        Raises:
            TrainingError: the run ended early.
        """


def perform(evaluator: Evaluator, job: Job, progress: Callable[[float], None]) -> Attributes:
    """Have an evaluator do a job; it is a :class:`FrontEvaluator` where there are jobs of that kind."""
    if job.kind == "measure":
        return evaluator.measure(job.subject)
    if job.kind == "train":
        return evaluator.train(job.subject, job.rung, progress)
    return cast(FrontEvaluator, evaluator).retrain(job.subject, job.repeat, progress)


@dataclass(frozen=True, slots=True)
class Answer:
    """A job is done; its attributes."""

    job: Job
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Failure:
    """A job came to nothing.

    Attributes:
        job: which.
        reason: in words.
        fault: ``candidate``: it cannot be measured or trained, and another try would say the same; ``worker``: its
            process died or hung; ``unexpected``: an error that vnas did not raise.
        traceback: of an unexpected error.
    """

    job: Job
    reason: str
    fault: Literal["candidate", "worker", "unexpected"]
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """A job goes on; the share that is done."""

    job: Job
    share: float


Event = Answer | Failure | Advance


class Executor(Protocol):
    """Takes jobs and gives back events."""

    @property
    def slots(self) -> int:
        """Jobs that may be under way at once."""

    def submit(self, job: Job) -> None:
        """Begin a job; at most ``slots`` are under way."""

    def wait(self, seconds: float) -> Event | None:
        """The next event, or None after so many seconds without one."""

    def clock(self) -> float:
        """Seconds since some moment; simulated ones where the work is."""

    def close(self) -> None:
        """End every job and process."""
