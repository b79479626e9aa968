"""What the record adds up to: the front, its judged predictors, and what happened to each trial. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from vnas.pareto import hypervolume, non_dominated
from vnas.prediction import PREDICTORS, Judgement, judge, unique_nets
from vnas.report.candidates import Candidate, candidates
from vnas.report.record import Record, Retrained


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; the ends are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class FrontNet:
    """One net of the front.

    Attributes:
        letter: its name in this report, A the fastest.
        digest: of the architecture.
        trial: the trial it comes from.
        description: the architecture in a line.
        architecture: as ``Architecture.from_dict`` reads it.
        anneal: its lambda schedule.
        depth: layers, as the paper counts them.
        params: of the fused net.
        macs: of the fused net, for one image.
        latency_ms: last measured: at the end of the run where that was done, else during the search.
        search_latency_ms: measured during the search.
        energy_mj: of one pass, measured during the search; None where it was not.
        val_top1: of the brief run in the search, in percent.
        retrained: one entry a seed.
        test_top1: mean over the seeds with its t interval; None before retraining.
    """

    letter: str
    digest: str
    trial: int
    description: str
    architecture: Mapping[str, Any] | None
    anneal: Mapping[str, Any] | None
    depth: int | None
    params: int | None
    macs: int | None
    latency_ms: Interval
    search_latency_ms: Interval
    energy_mj: float | None
    val_top1: float
    retrained: tuple[Retrained, ...]
    test_top1: Interval | None

    @property
    def saved(self) -> Retrained | None:
        """The seed whose weights were saved."""
        return next((entry for entry in self.retrained if entry.chosen), None)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a report says is taken from here.

    Attributes:
        record: what it was made of.
        candidates: each once, however many trials it had.
        on_front: by row of ``record.trials``: a completed trial that no other completed trial dominates.
        front: the nets of the front, fastest first.
        nets: every architecture with a measured latency, once; a part of ``record.trials``.
        judgements: by name of the predictor, over ``nets``.
        hypervolume: of the completed trials, in percent times ms, times mJ where energy is an objective; None without
            any.
        reference_ms: of its reference point, with an accuracy of 0 %.
        reference_mj: likewise; None where energy is no objective.
    """

    record: Record
    candidates: tuple[Candidate, ...]
    on_front: pd.Series[bool]
    front: tuple[FrontNet, ...]
    nets: pd.DataFrame
    judgements: Mapping[str, Judgement]
    hypervolume: float | None
    reference_ms: float | None
    reference_mj: float | None = None

    @property
    def completed(self) -> pd.DataFrame:
        """Trials that were judged at the last rung and may be on the front, each candidate once."""
        return self.record.trials[eligible(self.record)]

    @property
    def duplicates(self) -> pd.DataFrame:
        """Trials that repeated an earlier one and were not evaluated again."""
        return self.record.trials[self.record.trials["duplicate_of"].notna()]

    @property
    def rejected(self) -> pd.DataFrame:
        """Of each candidate that a gate turned away, and that was not trained later, the last trial."""
        last = [candidate.trial for candidate in self.candidates if candidate.status == "rejected"]
        return self.record.trials[self.record.trials["number"].isin(last)]

    @property
    def failed(self) -> pd.DataFrame:
        """Trials that went wrong, duplicates left out; interrupted ones are not among them."""
        trials = self.record.trials
        return trials[(trials["state"] == "FAIL") & trials["duplicate_of"].isna() & ~trials["interrupted"]]

    @property
    def several_rungs(self) -> bool:
        """Whether a candidate may be stopped before it is trained in full."""
        return len(self.record.study.rungs.shares) > 1

    @property
    def measurements(self) -> list[Mapping[str, Any]]:
        """The latency measurements of ``nets`` that were stored whole."""
        return [value for value in self.nets["latency"] if isinstance(value, Mapping)]


def eligible(record: Record) -> pd.Series[bool]:
    """Rows that may be on the front: judged at the last rung, within the budget, with every objective, no duplicate."""
    trials, budget = record.trials, record.study.latency.budget_ms
    mask = (trials["state"] == "COMPLETE") & trials["duplicate_of"].isna() & ~trials["over_budget"].fillna(False)
    for name in objectives(record):
        mask &= trials[name].notna()
    if budget is not None:
        mask &= trials["latency_ms"] <= budget
    # A study that does not ask for duplicates may train a candidate twice: the last training counts.
    again = trials["candidate"].where(mask).duplicated(keep="last") & trials["candidate"].notna()
    return (mask & ~again).astype(bool)


def objectives(record: Record) -> tuple[str, ...]:
    """Columns of the objectives: the accuracy, which is to be great, and what is to be small."""
    return ("val_top1", "latency_ms", "energy_mj") if record.study.energy else ("val_top1", "latency_ms")


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows, each with its columns as attributes."""
    yield from frame.itertuples(index=False)


def t_interval(values: list[float]) -> Interval:
    """Mean with the 95 % t interval, cut at 0 and 100 percent; no interval for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Interval(mean, max(0.0, mean - half), min(100.0, mean + half))


def measurement_interval(measurement: Mapping[str, Any]) -> Interval | None:
    """Median and interval of a stored measurement, in ms."""
    median, ends = measurement.get("median_ms"), measurement.get("interval_ms")
    if not isinstance(median, int | float):
        return None
    if isinstance(ends, list | tuple) and len(ends) == 2:
        return Interval(float(median), float(ends[0]), float(ends[1]))
    return Interval(float(median))


def _optional_int(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _optional_float(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _front_net(record: Record, row: Any) -> FrontNet:
    digest = str(row.digest)
    searched = Interval(
        float(row.latency_ms), _optional_float(row.latency_low_ms), _optional_float(row.latency_high_ms)
    )
    again = measurement_interval(record.front_latency.get(digest, {}))
    # After a resume the same net may be on the front under a better schedule: runs of the other do not count.
    retrained = tuple(entry for entry in record.front if (entry.digest, entry.candidate) == (digest, row.candidate))
    return FrontNet(
        letter="",
        digest=digest,
        trial=int(row.number),
        description="" if pd.isna(row.description) else str(row.description),
        architecture=row.architecture,
        anneal=row.anneal,
        depth=_optional_int(row.depth),
        params=_optional_int(row.params),
        macs=_optional_int(row.macs),
        latency_ms=again or searched,
        search_latency_ms=searched,
        energy_mj=_optional_float(row.energy_mj),
        val_top1=float(row.val_top1),
        retrained=retrained,
        test_top1=t_interval([entry.test_top1 for entry in retrained]) if retrained else None,
    )


def letters(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _front(record: Record, on_front: pd.Series[bool]) -> tuple[FrontNet, ...]:
    found = record.trials[on_front & record.trials["digest"].notna()]
    trained = {entry.candidate for entry in record.front}
    # An architecture may be on the front under several lambda schedules: the retrained one speaks for it.
    found = found.assign(retrained=found["candidate"].isin(list(trained)).astype(bool))
    found = found.sort_values(["retrained", "val_top1", "number"], ascending=[False, False, True], kind="stable")
    nets = [_front_net(record, row) for row in rows(found.drop_duplicates("digest"))]
    nets.sort(key=lambda net: (net.latency_ms.value, net.trial))
    return tuple(replace(net, letter=letters(index)) for index, net in enumerate(nets))


def analyse(record: Record) -> Analysis:
    """Find the front, judge the predictors, sum up."""
    trials = record.trials
    finished = trials[eligible(record)]
    names = objectives(record)
    maximise = (True, *(False,) * (len(names) - 1))
    points = finished[list(names)].to_numpy(dtype=np.float64)  # (N, M)
    best = finished.index[non_dominated(points, maximise=maximise)]
    on_front = trials.index.to_series().isin(best).astype(bool)
    nets = unique_nets(trials)
    corner = [float(most) for most in points[:, 1:].max(axis=0)] if len(points) else []
    budget = record.study.latency.budget_ms
    reference_ms = budget if budget is not None or not corner else corner[0]
    volume = None
    if reference_ms is not None and len(points):
        volume = hypervolume(points, (0.0, reference_ms, *corner[1:]), maximise=maximise)
    return Analysis(
        record=record,
        candidates=candidates(trials),
        on_front=on_front,
        front=_front(record, on_front),
        nets=nets,
        judgements={name: judge(nets, predictor, record.study.seed) for name, predictor in PREDICTORS.items()},
        hypervolume=volume,
        reference_ms=reference_ms,
        reference_mj=corner[1] if len(corner) > 1 else None,
    )
