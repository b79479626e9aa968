"""What a study's trials say, as arrays; a finished trial is read once, however often a sampler asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from vnas.search.sampling.encoding import Floats

ACCURACY, LATENCY = "val_top1", "latency_ms"
"""User attributes of a trial that it learns from: what was found, never what was imputed for it."""
POSTPONED = "postponed"
"""User attribute of a trial that was measured and not trained because another promised more; it may come again."""

Mask = npt.NDArray[np.bool_]
PointsOf = Callable[[Sequence[Mapping[str, Any]]], Floats]


@dataclass(frozen=True)
class Past:
    """N trials: finished ones in the order of their end, then the running ones; what is not known is NaN.

    Attributes:
        draws: of each.
        points: (N, P) as :class:`~vnas.search.sampling.encoding.Encoding` has them.
        latency: (N,) in ms.
        accuracy: (N,) in percent.
        running: (N,) whether it is under way.
        postponed: rows of draws that were put off and not tried since, each draw once.
        under_way: numbers of the running trials.
    """

    draws: Sequence[Mapping[str, Any]]
    points: Floats
    latency: Floats
    accuracy: Floats
    running: Mask
    postponed: Sequence[int]
    under_way: Sequence[int]
    _finished_keys: frozenset[bytes] | set[bytes]
    _running_keys: frozenset[bytes]

    @property
    def measured(self) -> Mask:
        """(N,) whether its latency is known."""
        return ~np.isnan(self.latency)

    @property
    def judged(self) -> Mask:
        """(N,) whether its latency and its accuracy are known."""
        return self.measured & ~np.isnan(self.accuracy)

    def has(self, point: Floats) -> bool:
        """Whether a trial is at this (P,) point."""
        key = point.tobytes()
        return key in self._finished_keys or key in self._running_keys


class Reader:
    """Reads the trials of one study.

    Args:
        names: a trial that lacks one of these parameters is passed over.
        points_of: (N, P) points of N draws.
    """

    def __init__(self, names: Sequence[str], points_of: PointsOf) -> None:
        self._names, self._points_of = frozenset(names), points_of
        self._seen = 0
        self._open: set[int] = set()
        self._draws: list[Mapping[str, Any]] = []
        # Point, latency and accuracy of each draw in the first rows; it grows by doubling.
        self._table = np.empty((64, len(names) + 2))
        self._keys: set[bytes] = set()
        self._tried: set[bytes] = set()  # of trials that were not put off
        self._put_off: dict[bytes, int] = {}  # row of the first trial that was, by key

    def read(self, trials: Sequence[FrozenTrial], but: int) -> Past:
        """All that is known now.

        Args:
            trials: of the study, all of them, by number.
            but: number of a trial to leave out.
        """
        new = self._open | set(range(self._seen, len(trials)))
        self._seen = len(trials)
        self._open = {number for number in new if not trials[number].state.is_finished()}
        self._take([trials[number] for number in sorted(new - self._open)])
        running = [
            trials[number]
            for number in sorted(self._open)
            if number != but and trials[number].params.keys() >= self._names
        ]
        waiting = self._points_of([trial.params for trial in running])
        keys = frozenset(row.tobytes() for row in waiting)
        under_way = np.array([trial.state == TrialState.RUNNING for trial in running], dtype=bool)
        table = np.vstack([self._table[: len(self._draws)], _rows(waiting, running)])
        return Past(
            draws=[*self._draws, *(trial.params for trial in running)],
            points=np.ascontiguousarray(table[:, :-2]),
            latency=table[:, -2],
            accuracy=table[:, -1],
            running=np.append(np.zeros(len(self._draws), dtype=bool), under_way),
            postponed=[row for key, row in self._put_off.items() if key not in keys],
            under_way=[trial.number for trial, at_work in zip(running, under_way, strict=True) if at_work],
            _finished_keys=self._keys,
            _running_keys=keys,
        )

    def _take(self, trials: Sequence[FrozenTrial]) -> None:
        """Keep what finished trials say."""
        whole = [trial for trial in trials if trial.params.keys() >= self._names]
        points = self._points_of([trial.params for trial in whole])
        for trial, point, line in zip(whole, points, _rows(points, whole), strict=True):
            row, key = len(self._draws), point.tobytes()
            if row == len(self._table):
                self._table = np.vstack([self._table, np.empty_like(self._table)])
            self._table[row] = line
            self._draws.append(trial.params)
            self._keys.add(key)
            if not trial.user_attrs.get(POSTPONED):
                self._tried.add(key)
                self._put_off.pop(key, None)
            elif key not in self._tried:
                self._put_off.setdefault(key, row)


def _rows(points: Floats, trials: Sequence[FrozenTrial]) -> Floats:
    """(N, P + 2) points, and latency and accuracy behind them."""
    known = [(trial.user_attrs.get(LATENCY, np.nan), trial.user_attrs.get(ACCURACY, np.nan)) for trial in trials]
    return np.hstack([points, np.array(known, dtype=np.float64).reshape(-1, 2)])
