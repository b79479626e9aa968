"""The last step of a study: the nets of the front trained anew, longer, and judged on the test set.

Choosing the front by validation accuracy makes those accuracies optimistic; fresh seeds and a set that nothing was
chosen by do not have that fault.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vnas.errors import MeasurementError, VnasError
from vnas.evaluate import Candidate, measure_net, net_folder, seed_weights
from vnas.nets import load_checkpoint
from vnas.pareto import hypervolume, non_dominated
from vnas.report.files import write
from vnas.search.engine.protocol import Advance, Answer, Executor, Job, Subject
from vnas.search.store import front_results, set_front_result

if TYPE_CHECKING:
    import optuna
    import torch

    from vnas.config import StudyConfig
    from vnas.search.engine.book import Entry


_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FrontNet:
    """A net of the front, as the search found it."""

    trial: int
    candidate: Candidate
    val_top1: float
    latency_ms: float
    energy_mj: float | None = None


@dataclass(frozen=True, slots=True)
class FrontJob:
    """Whose front it is, and where its nets are kept."""

    study: optuna.Study
    config: StudyConfig
    run_dir: Path


@dataclass(frozen=True, slots=True)
class Run:
    """A training of a net of the front that is to be done.

    Attributes:
        number: tells them apart.
        net: which.
        repeat: which of the fresh seeds, from 0.
        attempt: from 1.
    """

    number: int
    net: FrontNet
    repeat: int
    attempt: int = 1

    def __str__(self) -> str:
        return f"retraining of trial {self.net.trial}, run {self.repeat + 1}"


@dataclass(frozen=True, slots=True)
class Retrained:
    """One training of a net of the front, which is over; see :class:`Run`."""

    run: int
    net: FrontNet
    repeat: int
    val_top1: float
    test_top1: float
    seconds: float


class FrontReporter(Protocol):
    """Where the retraining tells what it does."""

    def front_started(self, nets: int, runs: int, done: int) -> None:
        """``done`` of ``runs`` training runs over ``nets`` nets are there already."""

    def advanced(self, number: int, share: float) -> None:
        """A training run went on."""

    def retrained(self, result: Retrained) -> None:
        """A run has been stored."""

    def note(self, text: str) -> None:
        """Something worth a line."""


def select(
    judged: Iterable[Entry], max_nets: int, *, budget_ms: float | None = None, energy: bool = False
) -> list[FrontNet]:
    """The front of what was judged at the last rung, fastest first, thinned to the nets that add most hypervolume.

    Args:
        judged: distinct candidates.
        max_nets: at most so many.
        budget_ms: slower nets are left out.
        energy: whether energy is an objective too.
    """
    nets = [
        FrontNet(
            entry.number if entry.judged_by is None else entry.judged_by,
            Candidate.from_attributes(entry.attributes),
            entry.rungs[-1]["val_top1"],
            entry.attributes["latency_ms"],
            entry.attributes["energy_mj"] if energy else None,
        )
        for entry in judged
        if budget_ms is None or entry.attributes["latency_ms"] <= budget_ms
    ]
    if not nets:
        return []
    # An architecture under two schedules is one net: the better schedule stands for it.
    best: dict[str, FrontNet] = {}
    for net in sorted(nets, key=lambda net: (-net.val_top1, net.trial)):
        best.setdefault(net.candidate.architecture.digest, net)
    nets = list(best.values())
    mask = non_dominated(_points(nets))
    front = sorted((net for net, keep in zip(nets, mask, strict=True) if keep), key=lambda net: net.latency_ms)
    while len(front) > max_nets:
        front.remove(_least_useful(front))
    return front


def _points(nets: list[FrontNet]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, 2), or (N, 3) with energy, all minimised."""
    return np.array(
        [(100.0 - net.val_top1, net.latency_ms, *(() if net.energy_mj is None else (net.energy_mj,))) for net in nets]
    )


def _least_useful(front: list[FrontNet]) -> FrontNet:
    points = _points(front)
    reference = points.max(axis=0) + 0.1 * np.ptp(points, axis=0) + 1e-9
    without = [hypervolume(np.delete(points, i, axis=0), reference) for i in range(len(front))]
    return front[int(np.argmax(without))]


def retrain(job: FrontJob, judged: Iterable[Entry], executor: Executor, reporter: FrontReporter) -> list[FrontNet]:
    """Train each net of the front with fresh seeds and judge it on the test set, on all workers.

    Each run is stored as it ends; runs that are stored already are not repeated. One whose worker dies is tried again
    as often as a trial of the search is.

    Args:
        job: whose front.
        judged: candidates at the last rung.
        executor: with :class:`~vnas.search.engine.protocol.FrontEvaluator`.
        reporter: told each run.

    Returns:
        The front, fastest first; :func:`conclude` has to follow.

    Raises:
        KeyboardInterrupt: passed on; what is stored stays.
    """
    settings = job.config.front
    front = select(judged, settings.max_nets, budget_ms=job.config.latency.budget_ms, energy=job.config.energy)
    if not front:
        return front
    results = front_results(job.study)
    runs = [
        Run(number, net, repeat)
        for number, (net, repeat) in enumerate((net, repeat) for net in front for repeat in range(settings.seeds))
    ]
    pending = deque(run for run in runs if not _done(results, job.run_dir, run.net, run.repeat))
    reporter.front_started(len(front), len(runs), len(runs) - len(pending))
    try:
        _work(job, pending, executor, reporter)
    except VnasError as error:  # no worker can be had; the report does not depend on these runs
        reporter.note(f"the front could not be trained anew: {error}. --resume tries it again")
    return front


def conclude(job: FrontJob, front: list[FrontNet], device: torch.device, reporter: FrontReporter) -> None:
    """Keep the best weights of each net, and time the nets once more.

    The weights in ``nets/<digest>/weights.safetensors`` are those of the seed with the best validation accuracy.

    Args:
        job: whose front.
        front: as :func:`retrain` gave it.
        device: to measure on, where nothing else is at work.
        reporter: told what cannot be measured.
    """
    for net in front:
        _keep_best(job, net)
    _measure_again(job, device, front, reporter)


def _done(results: dict[str, Any], run_dir: Path, net: FrontNet, repeat: int) -> bool:
    architecture = net.candidate.architecture
    result = results.get(_key(net, repeat))
    if result is None or result["candidate"] != net.candidate.digest:
        return False
    finished = result["chosen"] is not None and (net_folder(run_dir, architecture) / "weights.safetensors").is_file()
    return finished or "reason" in result or seed_weights(run_dir, architecture, repeat).is_file()


def _key(net: FrontNet, repeat: int) -> str:
    return f"{net.candidate.architecture.digest}/{repeat}"


def _work(job: FrontJob, pending: deque[Run], executor: Executor, reporter: FrontReporter) -> None:
    """Have the workers do the runs, as many at once as they can."""
    at_work: dict[int, tuple[Run, float]] = {}
    while pending or at_work:
        while pending and len(at_work) < executor.slots:
            run = pending.popleft()
            at_work[run.number] = run, executor.clock()
            executor.submit(Job(run.number, "retrain", _subject(run.net), repeat=run.repeat))
        event = executor.wait(_WAIT_SECONDS)
        if event is None:
            continue
        if isinstance(event, Advance):
            reporter.advanced(event.job.trial, event.share)
            continue
        run, began = at_work.pop(event.job.trial)
        if isinstance(event, Answer):
            result, seconds = event.attributes, executor.clock() - began
            _store(job, run, {**result, "seconds": seconds})
            reporter.retrained(
                Retrained(run.number, run.net, run.repeat, result["val_top1"], result["test_top1"], seconds)
            )
        elif event.fault == "candidate":
            _store(job, run, {"reason": event.reason})
            reporter.note(f"{run}: {event.reason}")
        elif event.fault == "worker" and run.attempt <= job.config.workers.retries:
            pending.append(replace(run, attempt=run.attempt + 1))
        else:
            reporter.note(f"{run} failed: {event.reason}. --resume tries it again")


def _subject(net: FrontNet) -> Subject:
    candidate = net.candidate
    return Subject(candidate.digest, candidate.architecture.digest, candidate.attributes())


def _store(job: FrontJob, run: Run, found: dict[str, Any]) -> None:
    candidate = run.net.candidate
    stored = {
        "digest": candidate.architecture.digest,
        "candidate": candidate.digest,
        "trial": run.net.trial,
        "seed": candidate.seed(job.config.seed, run.repeat + 1),
        "chosen": None,
    }
    set_front_result(job.study, _key(run.net, run.repeat), stored | found)


def _runs(job: FrontJob, net: FrontNet) -> Iterator[tuple[int, dict[str, Any]]]:
    results = front_results(job.study)
    for repeat in range(job.config.front.seeds):
        result = results.get(_key(net, repeat))
        if result is not None and "val_top1" in result and result["candidate"] == net.candidate.digest:
            yield repeat, result


def _keep_best(job: FrontJob, net: FrontNet) -> None:
    architecture = net.candidate.architecture
    folder = net_folder(job.run_dir, architecture)
    runs = list(_runs(job, net))
    if not runs:
        return
    best, _ = max(runs, key=lambda run: (run[1]["val_top1"], -run[0]))
    write(folder / "architecture.json", architecture.to_json() + "\n")
    source = seed_weights(job.run_dir, architecture, best)
    if source.is_file():
        source.replace(folder / "weights.safetensors")
    for repeat, result in runs:
        if result["chosen"] != (repeat == best):
            set_front_result(job.study, _key(net, repeat), result | {"chosen": repeat == best})
    shutil.rmtree(folder / "seeds", ignore_errors=True)


def _measure_again(job: FrontJob, device: torch.device, front: list[FrontNet], reporter: FrontReporter) -> None:
    """Time the trained nets once more, in shuffled order: chance had a part in the latencies they were chosen by."""
    results = front_results(job.study)
    order = np.random.default_rng(job.config.seed).permutation(len(front))
    for index in order:
        net = front[int(index)]
        architecture = net.candidate.architecture
        key = f"{architecture.digest}/latency"
        path = net_folder(job.run_dir, architecture) / "weights.safetensors"
        if key in results or not path.is_file():
            continue
        size = architecture.image_size
        try:
            measurement = measure_net(
                load_checkpoint(path, architecture), (architecture.in_chans, size, size), device, job.config.latency
            )
        except MeasurementError as error:
            reporter.note(f"trial {net.trial} could not be measured again: {error}")
            continue
        set_front_result(job.study, key, measurement.to_dict())
