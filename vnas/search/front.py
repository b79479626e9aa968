"""The last step of a study: the nets of the front trained anew, longer, and judged on the test set.

Choosing the front by validation accuracy makes those accuracies optimistic; fresh seeds and a set that nothing was
chosen by do not have that fault.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vnas.errors import MeasurementError, TrainingError
from vnas.evaluate import Candidate, measure_net, train
from vnas.nets import load_checkpoint, save_weights
from vnas.pareto import hypervolume, non_dominated
from vnas.report.files import write
from vnas.search.store import front_results, set_front_result
from vnas.training import Data, evaluate

if TYPE_CHECKING:
    import optuna
    import torch

    from vnas.config import StudyConfig
    from vnas.search.engine.book import Entry
    from vnas.training import Progress


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
class Retrained:
    """One training run of a net of the front."""

    net: FrontNet
    repeat: int
    val_top1: float
    test_top1: float
    seconds: float


class FrontReporter(Protocol):
    """Where the retraining tells what it does."""

    def front_started(self, nets: int, runs: int, done: int) -> None:
        """``done`` of ``runs`` training runs over ``nets`` nets are there already."""

    def training(self, progress: Progress) -> None:
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


def retrain(
    job: FrontJob, judged: Iterable[Entry], data: Data, device: torch.device, reporter: FrontReporter
) -> list[FrontNet]:
    """Train each net of the front with fresh seeds, judge it on the test set, keep its best weights.

    Each run is stored as it ends; runs that are stored already are not repeated. The weights kept in
    ``nets/<digest>/weights.safetensors`` are those of the seed with the best validation accuracy.

    Raises:
        KeyboardInterrupt: passed on; what is stored stays.
    """
    settings = job.config.front
    front = select(judged, settings.max_nets, budget_ms=job.config.latency.budget_ms, energy=job.config.energy)
    if not front:
        return front
    results = front_results(job.study)
    runs = [(net, repeat) for net in front for repeat in range(settings.seeds)]
    pending = [(net, repeat) for net, repeat in runs if not _done(results, job.run_dir, net, repeat)]
    total = len(runs)
    reporter.front_started(len(front), total, total - len(pending))
    for net, repeat in pending:
        try:
            _retrain_once(job, data, device, reporter, net, repeat)
        except Exception as error:  # noqa: BLE001  the other runs and the report do not depend on this one
            reporter.note(f"{_name(net, repeat)} failed: {type(error).__name__}: {error}. --resume tries it again")
    for net in front:
        _keep_best(job, net)
    _measure_again(job, device, front, reporter)
    return front


def _folder(run_dir: Path, net: FrontNet) -> Path:
    return run_dir / "nets" / net.candidate.architecture.digest


def _key(net: FrontNet, repeat: int) -> str:
    return f"{net.candidate.architecture.digest}/{repeat}"


def _name(net: FrontNet, repeat: int) -> str:
    return f"retraining of trial {net.trial}, run {repeat + 1}"


def _weights(run_dir: Path, net: FrontNet, repeat: int) -> Path:
    return _folder(run_dir, net) / "seeds" / f"{repeat}.safetensors"


def _done(results: dict[str, Any], run_dir: Path, net: FrontNet, repeat: int) -> bool:
    result = results.get(_key(net, repeat))
    if result is None or result["candidate"] != net.candidate.digest:
        return False
    finished = result["chosen"] is not None and (_folder(run_dir, net) / "weights.safetensors").is_file()
    return finished or "reason" in result or _weights(run_dir, net, repeat).is_file()


def _retrain_once(
    job: FrontJob,
    data: Data,
    device: torch.device,
    reporter: FrontReporter,
    net: FrontNet,
    repeat: int,
) -> None:
    config = job.config
    began = time.perf_counter()
    stored: dict[str, Any] = {
        "digest": net.candidate.architecture.digest,
        "candidate": net.candidate.digest,
        "trial": net.trial,
        "seed": net.candidate.seed(config.seed, repeat + 1),
        "chosen": None,
    }
    try:
        result = train(
            net.candidate,
            data,
            config.training.model_copy(
                update={"epochs": math.ceil(config.front.epochs_factor * config.training.epochs)}
            ),
            seed=stored["seed"],
            device=device,
            progress=reporter.training,
        )
        assert result.fused is not None
        size = net.candidate.architecture.image_size
        test_top1 = evaluate(result.fused, data.loader("test", size, device=device), device)
    except TrainingError as error:
        set_front_result(job.study, _key(net, repeat), stored | {"reason": str(error)})
        reporter.note(f"{_name(net, repeat)}: {error}")
        return
    path = _weights(job.run_dir, net, repeat)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(result.fused, path)
    seconds = time.perf_counter() - began
    stored |= {
        "val_top1": result.val_top1,
        "test_top1": test_top1,
        "epochs": result.epochs,
        "seconds": seconds,
        "training": result.to_dict(),
    }
    set_front_result(job.study, _key(net, repeat), stored)
    reporter.retrained(Retrained(net, repeat, result.val_top1, test_top1, seconds))


def _runs(job: FrontJob, net: FrontNet) -> Iterator[tuple[int, dict[str, Any]]]:
    results = front_results(job.study)
    for repeat in range(job.config.front.seeds):
        result = results.get(_key(net, repeat))
        if result is not None and "val_top1" in result and result["candidate"] == net.candidate.digest:
            yield repeat, result


def _keep_best(job: FrontJob, net: FrontNet) -> None:
    folder = _folder(job.run_dir, net)
    runs = list(_runs(job, net))
    if not runs:
        return
    best, _ = max(runs, key=lambda run: (run[1]["val_top1"], -run[0]))
    write(folder / "architecture.json", net.candidate.architecture.to_json() + "\n")
    source = _weights(job.run_dir, net, best)
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
        path = _folder(job.run_dir, net) / "weights.safetensors"
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
