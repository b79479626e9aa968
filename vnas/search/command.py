"""``python -m vnas.search`` put together: settings, device, data, storage, loop, front, report."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from vnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ResumeError, VnasError
from vnas.profiler import Environment
from vnas.profiler.allocator import keep_freed_memory
from vnas.report import read, render
from vnas.report.files import write
from vnas.report.reading import shown_url
from vnas.search import front, space, store
from vnas.search.engine.driver import Driver
from vnas.search.engine.ledger import Ledger
from vnas.search.engine.rules import Rules
from vnas.search.nets import NetProblem
from vnas.search.presets import preset_draws
from vnas.search.settings import Settings, settle
from vnas.search.terminal import Terminal
from vnas.search.workforce import devices_of, hire, one_kind, processes
from vnas.training import Data, open_data

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; two runs of one study are then not noticed
    fcntl = None  # type: ignore[assignment]


def run(args: argparse.Namespace) -> int:
    """Run a study to its end, or until it is interrupted.

    Args:
        args: as parsed by :func:`vnas.search.cli.parser`.

    Returns:
        The exit code.

    Raises:
        VnasError: what was asked for cannot be done.
        OSError: the run directory cannot be written.
    """
    terminal = Terminal()
    keep_freed_memory()  # before anything is measured or trained
    devices = devices_of(args.gpu, args.device)
    count = processes(devices, args.workers)
    environment = one_kind(devices)
    terminal.device(environment, ", ".join(map(str, devices)))
    settings = settle(args)
    config = settings.config
    data = open_data(config.data)
    terminal.data(data)
    space.check(config.space, in_chans=data.in_chans, num_classes=data.num_classes, anneal=config.training.anneal)
    presets = preset_draws(config, in_chans=data.in_chans, num_classes=data.num_classes)
    settings.out.mkdir(parents=True, exist_ok=True)
    with _only_run(settings), _storage_errors(settings):
        try:
            driver, study = _open(settings, environment, data, terminal, presets, resume=args.resume)
            with terminal:
                executor, names = hire(config, devices, count, settings.out, terminal.advanced)
                with contextlib.closing(executor):
                    if count > 1:
                        terminal.workers(names)
                    driver.run(executor)
                    last = not driver.others
                    if last:
                        job = front.FrontJob(study, config, settings.out)
                        judged = driver.book.judged(len(driver.problem.rungs) - 1)
                        nets = front.retrain(job, judged, executor, terminal)
                if last:
                    front.conclude(job, nets, devices[0], terminal)
                    shutil.rmtree(settings.out / "checkpoints", ignore_errors=True)
                else:
                    terminal.note("other machines are still at work on this study; the last of them judges the front")
            record = read(settings.url, config.name)
            terminal.finished(record, render(record, settings.out))
        except KeyboardInterrupt:
            terminal.interrupted(resume_command(args, settings))
            return EXIT_INTERRUPTED
    completed = any(True for _ in driver.book.judged(len(driver.problem.rungs) - 1))
    return EXIT_DONE if completed else EXIT_FAILED


def _open(
    settings: Settings,
    environment: Environment,
    data: Data,
    terminal: Terminal,
    presets: list[dict[str, Any]],
    *,
    resume: bool,
) -> tuple[Driver, optuna.Study]:
    config, storage = settings.config, store.open_storage(settings.url)
    shared = store.shareable(settings.url)
    facts = store.facts(environment, data)
    problem = NetProblem(config, in_chans=data.in_chans, num_classes=data.num_classes)
    rules = Rules.of(config, floor=100.0 / data.num_classes)
    owner = f"{socket.gethostname()}/{os.getpid()}"
    study: optuna.Study | None = None
    exists, changes = settings.exists, tuple[str, ...]()
    if not exists:
        if resume:
            terminal.note(f"nothing to resume in {settings.out}: starting")
        own = settings.database is not None and settings.database.parent == settings.out.absolute()
        study = store.create(storage, config, facts, own=own, shared=shared)
    if study is None:
        study, changes = store.resume(storage, config, facts)
        exists = True
    ledger = Ledger(study, problem.choices, owner)
    _queue_missing(ledger, presets)
    driver = Driver(problem, ledger, rules, terminal, shared=shared)
    recovered = driver.recover()
    if exists:
        terminal.resumed(driver.book.finished, recovered, changes)
    write(settings.out / "study.toml", config.to_toml())
    return driver, study


def _queue_missing(ledger: Ledger, presets: list[dict[str, Any]]) -> None:
    """Queue the presets that have no trial: all of a new study, else those that a run that ended left out."""
    there = [
        trial.params
        for trial in ledger.trials()
        if trial.user_attrs.get("preset") and not trial.user_attrs.get("withdrawn")
    ]
    for draw in presets:
        if draw not in there:
            ledger.queue(draw, {"preset": True})


@contextlib.contextmanager
def _storage_errors(settings: Settings) -> Iterator[None]:
    """A database that fails is said to be one, without its password."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        detail = str(getattr(cause, "orig", None) or type(cause).__name__).splitlines()[0]
        raise VnasError(
            f"the storage {shown_url(settings.url)} failed: {shown_url(detail)}. Every completed trial in it is "
            "kept; once it works again, the same command with --resume goes on"
        ) from None


@contextlib.contextmanager
def _only_run(settings: Settings) -> Iterator[None]:
    """Hold the study against a second run on this machine; the lock goes with the process, however it ends.

    A study in a file is locked beside the file, whatever run directories are used; one on a server by its directory.
    """
    database = settings.database
    path = settings.out / ".lock" if database is None else database.with_name(f".{database.name}.lock")
    if fcntl is None:
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResumeError(
                f"another run is at work on {database or settings.out}; wait for it, or give this one its own --out DIR"
            ) from None
        yield


def resume_command(args: argparse.Namespace, settings: Settings) -> str:
    """The command that goes on with a run; a password in the storage's URL is masked."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    words = [str(python), "-m", "vnas.search"]
    if args.gpu is not None:
        words += ["--gpu", args.gpu]
    if args.device is not None:
        words += ["--device", args.device]
    if args.workers is not None:
        words += ["--workers", str(args.workers)]
    if args.study is not None:
        words += ["--study", args.study]
    for flag, value in (("--data", args.data), ("--trials", args.trials), ("--latency-budget", args.latency_budget)):
        if value is not None:
            words += [flag, str(value)]
    if args.seed is not None:
        words += ["--seed", str(args.seed)]
    for assignment in args.set:
        words += ["--set", assignment]
    if args.storage is not None:
        words += ["--storage", shown_url(args.storage)]
    return shlex.join([*words, "--out", str(settings.out), "--resume"])
