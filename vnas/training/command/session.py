"""One run of the command: check all that was typed, train, judge both forms, write."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from vnas.profiler.allocator import keep_freed_memory
from vnas.profiler.devices import resolve_device
from vnas.profiler.results import write_whole
from vnas.profiler.screen import duration
from vnas.profiler.terminal import device_line
from vnas.training.checkpointing import Checkpoint
from vnas.training.command import distributed
from vnas.training.command.logs import check_tensorboard, has_tensorboard
from vnas.training.command.outcome import FUSED_WEIGHTS, write_outcome
from vnas.training.command.plan import (
    CHECKPOINT,
    LOG,
    RESULT,
    TRAIN_TOML,
    Plan,
    check_directory,
    check_same,
    find_architecture,
    resume_command,
    size_note,
    to_toml,
)
from vnas.training.command.recipes import load_recipe
from vnas.training.command.recording import Recorder
from vnas.training.command.terminal import Terminal, table
from vnas.training.command.watching import Watch
from vnas.training.fit import fit
from vnas.training.images.data import Data, open_data
from vnas.training.result import Progress, TrainingResult

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints, at least; of streamed images, they come between two epochs only."""


def run(asked: argparse.Namespace) -> int:
    """Train the net; returns the exit code.

    Args:
        asked: as parsed by :func:`vnas.training.command.cli.parser`.

    Raises:
        VnasError: what was asked for cannot be done.
        OSError: the directory cannot be written.
    """
    keep_freed_memory()
    rank = distributed.in_environment()
    try:
        return Session(asked, rank).run()
    except UsageError as error:
        if rank.first:
            raise
        return error.exit_code  # what was typed is wrong for every process, and the first one says so


class Session:
    """What was asked for, checked, and what comes of it.

    Args:
        asked: as the command's parser gives it.
        rank: which of several processes this is.

    Raises:
        UsageError: something that was typed cannot be used.
        DeviceError: there is no such device.
    """

    def __init__(self, asked: argparse.Namespace, rank: distributed.Rank) -> None:
        self._asked = asked
        self._rank = rank
        self._terminal = Terminal(quiet=not rank.first)
        if asked.tensorboard:
            check_tensorboard()
        epochs = [] if asked.epochs is None else [f"training.epochs={asked.epochs}"]
        self._recipe = load_recipe(asked.recipe, asked.net, asked.data, [*epochs, *asked.set])
        self._share = distributed.share_of_batch(self._recipe.training.batch_size, rank.world)
        name = distributed.device_name(rank, asked.gpu, asked.device, torch.cuda.device_count())
        self._device = resolve_device(asked.gpu if rank.alone else None, name)
        self._wrap = distributed.wrapper(rank, self._device, sync_norms=asked.sync_norms)
        self._out: Path = asked.out or Path("reports") / "training" / Path(asked.net).stem
        # Every process must see it, or the others would wait for the first one, which has nothing to do.
        self._finished = asked.resume and (self._out / RESULT).is_file()
        self._exists = rank.first and check_directory(self._out, resume=asked.resume)

    def run(self) -> int:
        """Train and write; returns the exit code."""
        if self._finished:
            self._terminal.say(f"the run in {self._out} is finished: see {self._out / RESULT}")
            return EXIT_DONE
        self._terminal.say(device_line(self._device, None))
        data = open_data(self._recipe.data)
        plan = self._plan(data)
        self._announce(plan, data)
        if self._rank.first:
            self._begin(plan)
        training = self._recipe.training
        watch = Watch(data, training, plan.architecture.image_size, plan.seed, self._device)
        events = self._out / "tensorboard" if has_tensorboard() else None
        recorder = Recorder(self._out / LOG, events, watch, self._terminal)
        try:
            with distributed.joined(self._rank, self._device):
                result = self._train(plan, data, watch, recorder)
            if self._rank.first:
                recorder.finish(result)
                self._end(plan, data, result, watch)
        except KeyboardInterrupt:
            if self._rank.first:
                self._terminal.complain(self._interrupted(recorder.where))
            return EXIT_INTERRUPTED
        finally:
            recorder.close()
        return EXIT_DONE

    def _plan(self, data: Data) -> Plan:
        architecture = find_architecture(
            self._asked.net,
            num_classes=data.num_classes,
            in_chans=data.in_chans,
            image_size=self._asked.image_size,
            dropout=self._recipe.dropout,
        )
        return Plan(self._asked.net, architecture, self._recipe, self._asked.seed, self._rank.world)

    def _announce(self, plan: Plan, data: Data) -> None:
        arch, training = plan.architecture, plan.recipe.training
        counts = ", ".join(f"{count} {split}" for split, count in data.counts.items())
        shared = "" if self._rank.alone else f", {self._share} images of each in each of {self._rank.world} processes"
        self._terminal.say(
            f"data: {data.source}: {data.num_classes} classes, {counts} images",
            f"net: {plan.net}: {arch.describe()}, {arch.image_size} px",
            f"recipe: {plan.recipe.name}: {plan.recipe.origin}; {training.epochs} epochs, batches of "
            f"{training.batch_size}{shared}, {training.optimizer}, learning rate {training.lr:g}",
        )
        note = size_note(data, arch.image_size)
        if note is not None:
            self._terminal.say(f"note: {note}")

    def _begin(self, plan: Plan) -> None:
        if self._exists:
            check_same(self._out, plan)
        elif self._asked.resume:
            self._terminal.say(f"note: nothing to resume in {self._out}: starting")
        self._out.mkdir(parents=True, exist_ok=True)
        write_whole(self._out / TRAIN_TOML, to_toml(plan).encode())
        write_whole(self._out / "architecture.json", f"{plan.architecture.to_json()}\n".encode())

    def _train(self, plan: Plan, data: Data, watch: Watch, recorder: Recorder) -> TrainingResult:
        return fit(
            plan.architecture,
            data,
            plan.recipe.training,
            seed=plan.seed,
            device=self._device,
            progress=recorder if self._rank.first else None,
            checkpoint=Checkpoint(self._out / CHECKPOINT, CHECKPOINT_SECONDS),
            wrap=lambda net: self._wrap(watch.keep(net)),
            shard=self._rank.shard,
        )

    def _end(self, plan: Plan, data: Data, result: TrainingResult, watch: Watch) -> None:
        sets = write_outcome(self._out, plan, data, result, watch.seconds, self._device)
        (self._out / CHECKPOINT).unlink(missing_ok=True)
        self._terminal.say(
            f"trained {result.epochs} epochs in {duration(result.seconds)}, besides {duration(watch.seconds)} to judge "
            f"on the way; images: {result.pipeline} ({result.pipeline_reason})",
            *(f"note: {note}" for note in result.notes),
            "",
            *table({str(split): found for split, found in sets.items()}),
            "",
            f"weights: {self._out / FUSED_WEIGHTS}   curve: {self._out / 'curve.png'}   all: {self._out / RESULT}",
        )

    def _interrupted(self, where: Progress | None) -> str:
        at = "before the first step" if where is None else f"at step {where.step} of {where.steps}"
        command = resume_command(self._asked, self._out, self._rank.world)
        try:
            age = time.time() - (self._out / CHECKPOINT).stat().st_mtime
        except FileNotFoundError:
            first = f"there was no {CHECKPOINT} yet"
            return f"interrupted {at}; {self._out} keeps nothing to go on from: {first}. Start anew with\n  {command}"
        kept = f"{self._out} keeps {CHECKPOINT}, {duration(max(age, 0.0))} old, and {LOG}"
        return f"interrupted {at}; {kept}. Go on with\n  {command}"
