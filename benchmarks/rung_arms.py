"""The runs behind ``rung_fidelity.py``, each a task for a process with one thread.

    long        trained once to the end, judged on the test set; at each rung's cost it is looked at as it is (stopped)
                and with every lambda set to 1 (stopped, fused), which costs the run nothing
    branch      ours: a trunk at small lambda, an annealed branch a rung
    restart     a complete anneal from scratch a rung
    continue    a complete anneal, then from the annealed net on with lambda put back
    proxies     scores of the untrained net

Every arm has spent the same at a rung, the arm's earlier rungs included, and starts from the same seed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from benchmarks.proxies import PROXIES
from benchmarks.rung_records import ZERO_COST, Outcome, Score
from benchmarks.training_runs import opened
from vnas.config import DataConfig, TrainingConfig
from vnas.errors import TrainingError
from vnas.evaluate import Candidate
from vnas.training import Data, Progress, evaluate, fit, seeded
from vnas.training.command.watching import Watch
from vnas.training.fit import fresh
from vnas.training.rungs.training import Rung, Strategy, train_rungs

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
TASKS = ("long", *STRATEGIES, "proxies")
PROXY_IMAGES = 128


@dataclass(frozen=True)
class Setting:
    """What all runs have in common.

    Attributes:
        data: what to train on.
        training: the recipe; its epochs are the long run's.
        shares: cost of each rung, earlier ones included, as shares of the long run's epochs; ascending.
        branch_share: of what a rung costs, spent on its branch and not on the trunk.
        device: where.
    """

    data: DataConfig
    training: TrainingConfig
    shares: tuple[float, ...]
    branch_share: float
    device: str


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        net: what is trained.
        name: one of ``TASKS``.
        seed: of initialisation, order and augmentation.
    """

    net: Candidate
    name: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells tasks apart, as :attr:`Outcome.key`."""
        return self.net.digest, self.name, self.seed

    def epochs(self, setting: Setting) -> float:
        """What it trains."""
        return {"long": float(setting.training.epochs), "proxies": 0.0}.get(
            self.name, setting.shares[-1] * setting.training.epochs
        )


def perform(task: Task, setting: Setting) -> Outcome:
    """Do one task; a run that ends early is an outcome too."""
    data, device = opened(setting.data), torch.device(setting.device)
    config = setting.training.model_copy(update={"anneal": task.net.anneal})
    size = task.net.architecture.image_size
    data.training_loader(config, size, seed=0, device=device)  # decodes now, so that no run is charged for it
    for split in ("validation", "test"):
        data.loader(split, size, device=device)
    try:
        if task.name == "long":
            scores = _long(task, data, config, setting.shares, device)
        elif task.name == "proxies":
            scores = _proxies(task, data, config, device)
        else:
            strategy = next(one for one in STRATEGIES if one == task.name)
            scores = list(_rungs(task, strategy, data, config, setting, device))
    except TrainingError as error:
        return Outcome(*task.key, (), str(error))
    return Outcome(*task.key, tuple(scores))


def rungs(strategy: Strategy, shares: Sequence[float], branch_share: float, epochs: int) -> list[Rung]:
    """Rungs that cost the same whatever the strategy.

    Args:
        strategy: ``restart`` spends all that a rung adds on one run from fresh weights.
        shares: see :class:`Setting`.
        branch_share: see :class:`Setting`.
        epochs: of the long run.
    """
    costs = [epochs * (share - before) for before, share in itertools.pairwise((0.0, *shares))]
    branch_share = 1.0 if strategy == "restart" else branch_share
    return [Rung((1.0 - branch_share) * cost, branch_share * cost) for cost in costs]


def _rungs(
    task: Task, strategy: Strategy, data: Data, config: TrainingConfig, setting: Setting, device: torch.device
) -> Iterator[Score]:
    planned = rungs(strategy, setting.shares, setting.branch_share, config.epochs)
    began = time.perf_counter()
    results = train_rungs(
        task.net.architecture, data, config, planned, seed=task.seed, device=device, strategy=strategy
    )
    for number, result in enumerate(results):
        yield Score(strategy, number, result.val_top1, result.epochs, time.perf_counter() - began)


def _long(task: Task, data: Data, config: TrainingConfig, shares: Sequence[float], device: torch.device) -> list[Score]:
    size = task.net.architecture.image_size
    watch = Watch(data, config, size, task.seed, device)
    waiting = list(enumerate(shares))
    scores: list[Score] = []

    def progress(where: Progress) -> None:
        while waiting and where.step >= max(1, round(waiting[0][1] * where.steps)):
            number, _ = waiting.pop(0)
            before = watch.seconds
            look = watch.look()
            seconds = where.seconds + watch.seconds - before
            epochs = where.epochs * where.step / where.steps
            scores.append(Score("stopped", number, look.training_form, epochs, seconds))
            scores.append(Score("stopped, fused", number, look.fused, epochs, seconds))

    began = time.perf_counter()
    result = fit(task.net.architecture, data, config, seed=task.seed, device=device, progress=progress, wrap=watch.keep)
    seconds = time.perf_counter() - began - watch.seconds
    assert result.fused is not None
    top1 = evaluate(result.fused, data.loader("test", size, device=device), device)
    return [*scores, Score("long", 0, top1, float(config.epochs), seconds)]


def _proxies(task: Task, data: Data, config: TrainingConfig, device: torch.device) -> list[Score]:
    size = task.net.architecture.image_size
    batch = config.model_copy(update={"batch_size": PROXY_IMAGES})
    images, labels = next(iter(data.training_loader(batch, size, seed=task.seed, device=device)))
    with seeded(task.seed, device):
        net = fresh(task.net.architecture, config).to(device)
    scores = []
    for name, proxy in PROXIES.items():
        began = time.perf_counter()
        value = proxy(net, images, labels)
        scores.append(Score(name, ZERO_COST, value, 0.0, time.perf_counter() - began))
    return scores
