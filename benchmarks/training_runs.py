"""Training runs of a benchmark, each a line of JSON once it is over, and the intervals of what they found.

A run is a complete anneal from fresh weights on so many images, judged as the fused net. A benchmark that was killed
goes on with the runs that are missing (see :mod:`benchmarks.rung_records`).
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.rung_records import Outcome, Score, append, finished, read
from benchmarks.workers import performed
from vnas.config import DataConfig, TrainingConfig
from vnas.errors import TrainingError
from vnas.nets import Architecture
from vnas.training import Data, evaluate, open_data
from vnas.training.rungs.training import Rung, train_rungs

RESAMPLES = 10_000
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        net: what the table calls the net.
        arm: what is compared.
        architecture: of the net.
        training: the recipe; its warm-up counts as a share of its epochs, which have no other meaning.
        images: to train on; more than there are of them means several passes.
        seed: of initialisation, order and augmentation.
        split: that the fused net is judged on.
    """

    net: str
    arm: str
    architecture: Architecture
    training: TrainingConfig
    images: int
    seed: int
    split: Literal["validation", "test"] = "test"

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells jobs apart, as :attr:`benchmarks.rung_records.Outcome.key`."""
        return self.net, self.arm, self.seed


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; the ends are None where there is nothing to tell them from."""

    mean: float
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 1, sign: str = "") -> str:
        """As a table says it."""
        ends = "" if self.low is None else f" [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"
        return f"{self.mean:{sign}.{digits}f}{ends}"


@functools.cache
def opened(config: DataConfig) -> Data:
    """The data, opened and decoded once a process."""
    return open_data(config)


def perform(job: Job, config: DataConfig) -> Outcome:
    """Do one job on the CPU; a run that ends early is an outcome too."""
    data = opened(config)
    try:
        top1, seconds = trained(job, data)
    except TrainingError as error:
        return Outcome(*job.key, (), str(error))
    return Outcome(*job.key, (Score(job.split, 0, top1, job.images / data.counts["train"], seconds),))


def trained(job: Job, data: Data) -> tuple[float, float]:
    """Accuracy in percent, and seconds of training."""
    epochs = job.images / data.counts["train"]
    share = job.training.warmup_epochs / job.training.epochs
    training = job.training.model_copy(update={"warmup_epochs": share * epochs})
    size = job.architecture.image_size
    results = train_rungs(job.architecture, data, training, [Rung(0.0, epochs)], seed=job.seed, device=CPU)
    result = next(results)
    assert result.fused is not None
    return evaluate(result.fused, data.loader(job.split, size, device=CPU), CPU), result.seconds


def perform_all(
    jobs: Sequence[Job], config: DataConfig, answers: Path, settings: Mapping[str, Any], processes: int
) -> dict[tuple[str, str, int], Outcome]:
    """Do the jobs that a file does not have yet.

    Args:
        jobs: all of them.
        config: what to train on.
        answers: the file; made where it does not exist.
        settings: by name, what the results depend on.
        processes: one thread each.

    Returns:
        What the jobs found, by key.

    Raises:
        DataError: the file is not one of results.
        ResumeError: the file's results came from other settings.
    """
    outcomes = read(answers, settings)
    done = finished(outcomes)
    missing = [job for job in jobs if job.key not in done]
    print(f"{len(missing)} of {len(jobs)} runs to do, into {answers}", file=sys.stderr)
    began = time.monotonic()
    for number, outcome in enumerate(performed(partial(perform, config=config), missing, processes), start=1):
        append(answers, outcome)
        outcomes.append(outcome)
        left = (time.monotonic() - began) / number * (len(missing) - number)
        found = outcome.error or f"{outcome.scores[0].value:.1f} % in {outcome.scores[0].seconds:.0f} s"
        line = f"[{number}/{len(missing)}] {outcome.net}, {outcome.task}, seed {outcome.seed}: {found}"
        print(f"{line}; {left / 60:.0f} min left", file=sys.stderr, flush=True)
    wanted = {job.key for job in jobs}
    return {outcome.key: outcome for outcome in outcomes if outcome.key in wanted}


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of runs that differ in their seed alone, by Student's t: a bootstrap of three values is far too narrow."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def over_nets(values: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Mean over nets of the means over their seeds, with a bootstrap that draws nets, and for each of them seeds.

    Args:
        values: for each net, of each seed.
        seed: of the resamples.
    """
    mean = statistics.fmean(map(statistics.fmean, values))
    if len(values) < 2:
        return Interval(mean)
    random = np.random.default_rng(seed)
    # (R, N) means of each net over resampled seeds, for as many resamples as there are nets to draw from.
    means = np.stack(
        [
            np.asarray(ours)[random.integers(len(ours), size=(RESAMPLES, len(values), len(ours)))].mean(2)
            for ours in values
        ],
        axis=2,
    )  # (R, N drawn, N to draw from)
    drawn = random.integers(len(values), size=(RESAMPLES, len(values), 1))
    resampled = np.take_along_axis(means, drawn, axis=2).mean((1, 2))  # (R,)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(mean, float(low), float(high))


def settings(jobs: Iterable[Job], data: Data) -> dict[str, Any]:
    """By name, what the results depend on. Seeds are not among it, so that more of them can be added."""
    import vnas

    arms = {
        f"{job.net}, {job.arm}": [job.architecture.digest, job.training.model_dump(mode="json"), job.images, job.split]
        for job in jobs
    }
    return {**arms, "data": data.fingerprint, "vnas": vnas.__version__}
