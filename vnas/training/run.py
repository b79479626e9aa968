"""The state of one run: a net that learns, its place in the data, and what was seen of the loss."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vnas.errors import NonFiniteLossError
from vnas.nets import VanillaNet
from vnas.profiler.lock import device_lock, lock_key
from vnas.training.result import EpochRecord, Progress
from vnas.training.schedule import Schedule
from vnas.training.seeding import random_state, set_random_state
from vnas.training.stepping import Learner, Setting

# Steps between two looks at the loss on a GPU, where each look waits for the device; the CPU looks at every step.
_GPU_LOSS_WINDOW = 16


class Run:
    """A net on its way through a schedule.

    Args:
        net: to be trained, in place until a merge replaces it.
        schedule: lambda and learning rate at each step.
        setting: all else.
        state: what :meth:`state` gave, to go on from; also puts the global random streams where they were.

    Attributes:
        schedule: may be replaced by another between two calls of :meth:`advance`.
        learner: the net and its optimiser.
        loader: of the training batches.
        step: steps done.
        images: training images seen.
        curve: one record for each pass over the data that was ended.
    """

    def __init__(
        self, net: VanillaNet, schedule: Schedule, setting: Setting, state: Mapping[str, Any] | None = None
    ) -> None:
        self._setting = setting
        self.schedule = schedule
        self.learner = Learner(net, setting, None if state is None else state["learner"])
        self.loader = setting.loader()
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
        self.step = self.images = 0
        self.curve: list[EpochRecord] = []
        self._losses: list[float] = []  # of the epoch under way
        self._spent = 0.0
        self._since: float | None = None
        if state is not None:
            self._go_on_from(state)

    @property
    def seconds(self) -> float:
        """Time spent on training so far: not on what others do at a look, nor on waiting for a measurement."""
        return self._spent + (0.0 if self._since is None else time.perf_counter() - self._since)

    def advance(self, until: int) -> None:
        """Train on until so many steps are done.

        Args:
            until: steps; none are taken where they are done already.

        Raises:
            DataError: an image cannot be decoded.
            NonFiniteLossError: the loss became NaN or infinite.
            TrainingError: out of memory, even with the smallest part of a batch.
        """
        per_epoch = len(self.loader)
        while self.step < until:
            with self.sharing():
                self._stretch(min(until, (self.step // per_epoch + 1) * per_epoch))

    @property
    def resumable(self) -> bool:
        """Whether :meth:`state` is one to go on from: loader processes are ahead of the net but for a pass's end."""
        return self.loader.pipeline == "resident" or self.step % len(self.loader) == 0

    def next_batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many of the batches that would be trained on next."""
        for _ in range(count):
            yield self._next_batch()

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Training time, in which nobody measures on the device; to wait until a measurement is over is none."""
        device = self._setting.device
        with device_lock(lock_key(device), exclusive=False):
            self._since = time.perf_counter()
            try:
                yield
            finally:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                self._stop()

    def _stop(self) -> None:
        self._spent, self._since = self.seconds, None

    def state(self) -> dict[str, Any]:
        """All that the next step depends on and all that was seen, as tensors (not copies) and plain values."""
        return {
            "learner": self.learner.state(),
            "loader": self.loader.state(),
            "random": random_state(self._setting.device),
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "losses": list(self._losses),
            "curve": [asdict(record) for record in self.curve],
        }

    def fork(self, schedule: Schedule) -> Run:
        """Another run that begins where this one is, and leaves it as it is but for the global random streams.

        It has the net, the optimiser and the place in the data; its steps, its time and its average begin anew.
        """
        state = self.state()
        state = copy.deepcopy({**state, "learner": {**state["learner"], "ema": None}})
        fresh = {"step": 0, "images": 0, "seconds": 0.0, "losses": [], "curve": []}
        return Run(copy.deepcopy(self.learner.net), schedule, self._setting, {**state, **fresh})

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        self.loader.load_state(state["loader"])
        self.step, self.images, self._spent = state["step"], state["images"], state["seconds"]
        self._losses = list(state["losses"])
        self.curve = [EpochRecord(**record) for record in state["curve"]]
        set_random_state(state["random"], self._setting.device)

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        while True:
            if self._batches is None:
                self._batches = iter(self.loader)
            for batch in self._batches:
                return batch
            self._batches = None

    def _stretch(self, end: int) -> None:
        window = 1 if self._setting.device.type == "cpu" else _GPU_LOSS_WINDOW
        waiting: list[Tensor] = []
        while self.step < end:
            lambdas = self.schedule.slopes(self.step, self.learner.net.num_pairs)
            lambdas = self.learner.anneal(lambdas, self.step, last=self.step == self.schedule.steps - 1)
            lr = self.schedule.rate(self.step)
            images, labels = self._next_batch()
            waiting.append(self.learner.take(images, labels, lr, self.step))
            self.images += len(labels)
            self.step += 1
            if len(waiting) == window or self.step == end:
                seen = list(_finite(waiting, self.step - len(waiting), len(self.loader)))
                self._losses.extend(seen)
                waiting.clear()
                self._look(math.fsum(seen) / len(seen), lr, lambdas)

    def _look(self, loss: float, lr: float, lambdas: tuple[float, ...]) -> None:
        setting, per_epoch, steps = self._setting, len(self.loader), self.schedule.steps
        epoch, seconds = (self.step - 1) // per_epoch, self.seconds
        lowest, highest = min(lambdas), max(lambdas)
        if self.step % per_epoch == 0 or self.step == steps:
            mean = math.fsum(self._losses) / len(self._losses)
            self.curve.append(EpochRecord(epoch, mean, lr, lowest, highest, seconds))
            self._losses.clear()
        self._stop()
        if setting.progress is not None:
            setting.progress(
                Progress(
                    epoch=epoch,
                    epochs=-(-steps // per_epoch),
                    step=self.step,
                    steps=steps,
                    loss=loss,
                    lr=lr,
                    slope_min=lowest,
                    slope_max=highest,
                    seconds=seconds,
                    images_per_second=self.images / seconds,
                )
            )
        if setting.after_look is not None:
            setting.after_look()
        self._since = time.perf_counter()


def _finite(waiting: list[Tensor], first: int, per_epoch: int) -> Iterator[float]:
    for step, loss in enumerate(torch.stack(waiting).tolist(), start=first):
        if not math.isfinite(loss):
            raise NonFiniteLossError(loss, step // per_epoch, step)
        yield loss
