"""What one training of a benchmark finds out, as a line of its file of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import answers_file

ZERO_COST = -1
"""In place of a rung's number, for what is known before training."""


@dataclass(frozen=True)
class Score:
    """What one arm says of one net.

    Attributes:
        arm: such as ``branch`` or ``synflow``.
        rung: number of the rung, from 0, or ``ZERO_COST``.
        value: accuracy in percent or the proxy's score; larger is better.
        epochs: trained to know it, those of the arm's earlier rungs included.
        seconds: it took, judging included, likewise.
    """

    arm: str
    rung: int
    value: float
    epochs: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A finished task.

    Attributes:
        net: digest of the candidate.
        task: one run, which may tell several scores: the long run also tells of stopping it early.
        seed: of the run.
        scores: what it told.
        error: why the run ended early, or None.
    """

    net: str
    task: str
    seed: int
    scores: tuple[Score, ...]
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells tasks apart."""
        return self.net, self.task, self.seed


def read(path: Path, settings: Mapping[str, Any]) -> list[Outcome]:
    """The finished tasks of a file; see :func:`benchmarks.answers_file.read`."""
    return answers_file.read(path, settings, _outcome)


def append(path: Path, outcome: Outcome) -> None:
    """Add a finished task; it is on the disk when this returns."""
    answers_file.append(path, asdict(outcome))


def finished(outcomes: Iterable[Outcome]) -> set[tuple[str, str, int]]:
    """Keys of the tasks that need not run again."""
    return {outcome.key for outcome in outcomes}


def _outcome(values: dict[str, Any]) -> Outcome:
    return Outcome(**{**values, "scores": tuple(Score(**score) for score in values["scores"])})
