"""What ``rung_fidelity.py`` finds out, a line of JSON a finished task, so that a run that was cut short goes on.

The first line says what the results depend on; a file is only gone on with where all of that is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vnas.errors import DataError, ResumeError

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
    """The finished tasks of a file, which is made where it does not exist. A torn last line is cut off.

    Args:
        path: of the file.
        settings: by name, what the results depend on.

    Raises:
        ResumeError: the file's results came from other settings.
        DataError: a line is not what this script wrote.
    """
    whole = json.loads(json.dumps(settings))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, {"settings": whole})
        return []
    text = path.read_bytes()
    kept = text[: text.rfind(b"\n") + 1]
    lines = kept.decode().splitlines()
    if not lines:
        path.unlink()
        return read(path, settings)
    try:
        found = json.loads(lines[0])["settings"]
        outcomes = [_outcome(json.loads(line)) for line in lines[1:]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of results of this benchmark ({error}); give --answers FILE") from error
    _compare(path, found, whole)
    if len(kept) < len(text):
        os.truncate(path, len(kept))
    return outcomes


def append(path: Path, outcome: Outcome) -> None:
    """Add a finished task; it is on the disk when this returns."""
    _append(path, asdict(outcome))


def finished(outcomes: Iterable[Outcome]) -> set[tuple[str, str, int]]:
    """Keys of the tasks that need not run again."""
    return {outcome.key for outcome in outcomes}


def _outcome(values: dict[str, Any]) -> Outcome:
    return Outcome(**{**values, "scores": tuple(Score(**score) for score in values["scores"])})


def _append(path: Path, line: object) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _compare(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = sorted(name for name in found.keys() | asked.keys() if found.get(name) != asked.get(name))
    if differing:
        first = differing[0]
        raise ResumeError(
            f"{path} holds results for {first} = {found.get(first)!r}, but {first} = {asked.get(first)!r} is asked for"
            f"{f' (and {len(differing) - 1} more differences)' if len(differing) > 1 else ''}; "
            "ask for the same, delete the file, or give --answers FILE"
        )
