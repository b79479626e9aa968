"""A candidate on its way from rung to rung, and how it is kept on disk. See :mod:`vnas.training.rungs.training`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from vnas.config import TrainingConfig
from vnas.errors import ConfigError, ResumeError
from vnas.nets import Architecture, FusedVanillaNet, build
from vnas.training.checkpointing import Checkpoint, Saver, identity
from vnas.training.fit import chosen_speed, fresh
from vnas.training.images.data import Data
from vnas.training.result import Progress
from vnas.training.run import Run
from vnas.training.rungs.rung import Rung, RungResult, Strategy
from vnas.training.schedule import Complete, Trunk
from vnas.training.seeding import Streams, random_state, set_random_state
from vnas.training.stepping import Setting
from vnas.training.verdict import judged


class Climb:
    """The state of a candidate: a trunk, a branch while there is one, and what was found at the rungs below.

    Args:
        arch: of the net.
        data: to train and judge on.
        config: the recipe.
        rungs: at least one.
        seed: of all random numbers.
        device: where.
        strategy: how the net comes from one rung to the next.
        trunk_slope: lambda in the trunk.
        checkpoint: where the candidate is kept.
        progress: see :func:`vnas.training.rungs.training.train_rungs`.
    """

    def __init__(
        self,
        arch: Architecture,
        data: Data,
        config: TrainingConfig,
        rungs: tuple[Rung, ...],
        seed: int,
        device: torch.device,
        strategy: Strategy,
        trunk_slope: float,
        checkpoint: Checkpoint | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._arch, self._config, self._rungs, self._device = arch, config, rungs, device
        self._strategy, self._slope = strategy, trunk_slope
        self._streams = Streams(seed, device)
        self._results: list[RungResult] = []
        self._trunk: Run | None = None
        self._branch: Run | None = None
        self._begun = 0  # rungs that training was begun for
        self._steps, self._seconds = 0, 0.0  # of trunks and branches that are gone
        with self._streams.active():
            self._beginning = self._at_fork = random_state(device)
            loader = data.training_loader(config, arch.image_size, seed=seed, device=device)
            self._validation = data.loader("validation", arch.image_size, device=device)
            self._per_epoch = len(loader)
            self._check_places(loader.pipeline)
            own = identity(
                arch,
                data,
                config.model_copy(update={"epochs": 1}),
                seed=seed,
                device=device,
                pipeline=loader.pipeline,
                weights=None,
            )
            self._saver = Saver(checkpoint, {**own, "strategy": strategy, "trunk_slope": trunk_slope})
            found = self._saver.load()
            self._speed, self._reason = chosen_speed(
                found, lambda: fresh(arch, config), config, device, config.batch_size, self._longest()
            )
            self._setting = Setting(
                config=config,
                num_classes=data.num_classes,
                seed=seed,
                device=device,
                speed=self._speed,
                loader=lambda: data.training_loader(config, arch.image_size, seed=seed, device=device),
                progress=progress,
                after_look=self._after_look,
            )
            set_random_state(self._beginning, device)
            if found is not None:
                self._go_on_from(found)

    def results(self) -> Iterator[RungResult]:
        """Climb to each rung when its result is asked for."""
        for index in range(len(self._rungs)):
            if index == len(self._results):
                with self._streams.active():
                    self._climb(index)
            yield self._results[index]

    def _climb(self, index: int) -> None:
        self._begun = index + 1
        branch = self._branch = self._branch or self._leave(index)
        branch.advance(branch.schedule.steps)
        steps, seconds = self._so_far()
        if self._strategy == "continue":
            self._trunk, self._at_fork = branch.fork(Trunk(self._config.lr, 0)), random_state(self._device)
        verdict = judged(branch, self._validation, self._device)
        self._results.append(
            RungResult(
                rung=index,
                val_top1=verdict.val_top1,
                val_top1_training_form=verdict.val_top1_training_form,
                train_loss=branch.curve[-1].loss,
                epochs=steps / self._per_epoch,
                steps=steps,
                seconds=seconds,
                notes=tuple(branch.learner.notes),
                fused=verdict.fused,
            )
        )
        self._steps, self._seconds = self._steps + branch.step, self._seconds + branch.seconds
        self._branch = None
        set_random_state(self._at_fork, self._device)
        self._saver.save(self._state)

    def _leave(self, index: int) -> Run:
        """The run that ends at a rung, at its first step."""
        if self._strategy == "restart":
            set_random_state(self._beginning, self._device)
            return Run(fresh(self._arch, self._config), self._last_part(index), self._setting)
        if self._trunk is None:
            self._trunk = Run(fresh(self._arch, self._config), Trunk(self._config.lr, 0), self._setting)
        trunk, steps = self._trunk, self._trunk_steps(index)
        warmup = self._warmup(steps) if index == 0 or self._strategy == "branch" else 0
        trunk.schedule = Trunk(self._config.lr, steps, warmup, self._slope)
        trunk.advance(steps)
        self._at_fork = random_state(self._device)
        branch = trunk.fork(self._last_part(index))
        if self._strategy == "continue":
            self._steps, self._seconds = self._steps + trunk.step, self._seconds + trunk.seconds
            self._trunk = None
        return branch

    def _last_part(self, index: int) -> Complete:
        """Lambda to 1 and the rate down: a branch, or all of a restarted run."""
        steps = max(1, round(self._rungs[index].branch_epochs * self._per_epoch))
        if self._strategy == "restart":
            return Complete(self._config, self._per_epoch, steps + self._trunk_steps(index))
        # What comes straight from fresh weights, or from an annealed net, has had no warm-up.
        cold = self._trunk_steps(index) == 0
        config = self._config if cold else self._config.model_copy(update={"warmup_epochs": 0.0})
        return Complete(config, self._per_epoch, steps, self._slope)

    def _trunk_steps(self, index: int) -> int:
        """Where the branch leaves the trunk; ``continue`` counts from the rung below."""
        first = index if self._strategy == "continue" else 0
        return round(math.fsum(rung.trunk_epochs for rung in self._rungs[first : index + 1]) * self._per_epoch)

    def _longest(self) -> int:
        """Steps of the longest trunk, branch or restarted run, each of which is compiled by itself."""
        each = range(len(self._rungs))
        trunks = [] if self._strategy == "restart" else map(self._trunk_steps, each)
        return max([*trunks, *(self._last_part(index).steps for index in each)])

    def _check_places(self, pipeline: str) -> None:
        # Loader processes are ahead of the net, so there is no place in the middle of an epoch to leave the data from.
        parts = [rung.trunk_epochs for rung in self._rungs]
        if self._strategy == "continue":
            parts += [rung.branch_epochs for rung in self._rungs]
        if pipeline == "streaming" and self._strategy != "restart" and any(part % 1.0 for part in parts):
            raise ConfigError(
                f"images stream, so the trunk can be left between two epochs only; the rungs have parts of {parts} "
                "epochs: give whole ones, or set data.pipeline = 'resident'"
            )

    def _after_look(self) -> None:
        if all(run.resumable for run in (self._trunk, self._branch) if run is not None):
            self._saver.save_if_due(self._state)

    def _warmup(self, steps: int) -> int:
        """Steps of the trunk's warm-up: at most half of it up to the first branch."""
        first = next((found for found in map(self._trunk_steps, range(len(self._rungs))) if found), steps)
        return min(round(self._config.warmup_epochs * self._per_epoch), first // 2)

    def _so_far(self) -> tuple[int, float]:
        runs = [run for run in (self._trunk, self._branch) if run is not None]
        return self._steps + sum(run.step for run in runs), self._seconds + sum(run.seconds for run in runs)

    def _state(self) -> dict[str, Any]:
        trunk = None if self._trunk is None else self._trunk.state()
        if trunk is not None and self._branch is not None:
            trunk["random"] = self._at_fork
        return {
            "trunk": trunk,
            "branch": None if self._branch is None else self._branch.state(),
            "rungs": [asdict(rung) for rung in self._rungs[: self._begun]],
            "results": [_plain(result) for result in self._results],
            "steps": self._steps,
            "seconds": self._seconds,
            "speed": asdict(self._speed),
            "speed_reason": self._reason,
        }

    def _go_on_from(self, found: Mapping[str, Any]) -> None:
        for index, (before, rung) in enumerate(zip(found["rungs"], self._rungs, strict=False)):
            if before != asdict(rung):
                raise ResumeError(
                    f"rung {index} was {before} when this candidate was begun and is {asdict(rung)}; rungs that were "
                    "begun stay, others may be added after them"
                )
        self._results = [self._result(values) for values in found["results"]]
        self._begun, self._steps, self._seconds = len(found["rungs"]), found["steps"], found["seconds"]
        if found["trunk"] is not None:
            self._trunk = Run(build(self._arch), Trunk(self._config.lr, 0), self._setting, found["trunk"])
            self._at_fork = found["trunk"]["random"]
        index = len(self._results)
        if found["branch"] is not None and index < len(self._rungs):
            self._branch = Run(build(self._arch), self._last_part(index), self._setting, found["branch"])

    def _result(self, values: Mapping[str, Any]) -> RungResult:
        fused = FusedVanillaNet(self._arch)
        fused.load_state_dict(values["fused"])
        return RungResult(**{**values, "notes": tuple(values["notes"]), "fused": fused.to(self._device).eval()})


def _plain(result: RungResult) -> dict[str, Any]:
    assert result.fused is not None
    values = {one.name: getattr(result, one.name) for one in fields(result)}
    return {**values, "notes": list(result.notes), "fused": result.fused.state_dict()}
