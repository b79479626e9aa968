"""What a report is made of: a study as it lies in its storage, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from vnas.config import StudyConfig


@dataclass(frozen=True)
class Retrained:
    """One net of the front, trained anew with one seed and judged on the test set.

    Attributes:
        digest: of the architecture.
        candidate: of the architecture with its lambda schedule.
        trial: number of the trial it comes from.
        seed: of this training.
        val_top1: validation accuracy, in percent.
        test_top1: test accuracy of the fused net, in percent.
        epochs: length of the training.
        seconds: wall time.
        chosen: whether this is the seed whose weights were saved, picked by validation accuracy.
    """

    digest: str
    candidate: str
    trial: int
    seed: int
    val_top1: float
    test_top1: float
    epochs: int
    seconds: float | None
    chosen: bool


@dataclass(frozen=True, eq=False)
class Record:
    """A study, read from its storage.

    Attributes:
        name: of the study.
        study: what was run.
        trials: one row a trial, by number; absent values are missing, never 0. Columns as in ``trials.csv``; the JSON
            values ``architecture``, ``anneal``, ``latency`` and ``training`` as objects; ``recovers``: the trial whose
            place it has; and ``rungs``: what it found at each rung that it judged itself.
        front: the front's nets, one entry a seed; empty before they were retrained.
        front_latency: by digest, the last measurement of a front net (a ``Measurement`` as a dict).
        environment: of the run (an ``Environment`` as a dict).
        device: the kind of device that latencies were measured on; None where it was not stored.
        data: source, classes, counts, splits, fingerprint and pipeline.
        started_at: Unix seconds.
        vnas_version: that began the study.
    """

    name: str
    study: StudyConfig
    trials: pd.DataFrame
    front: tuple[Retrained, ...]
    front_latency: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    device: str | None
    data: Mapping[str, Any]
    started_at: float | None
    vnas_version: str | None
