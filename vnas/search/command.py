"""``python -m vnas.search`` put together: settings, device, data, storage, loop, front, report."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from optuna.trial import TrialState

from vnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ResumeError
from vnas.profiler import Environment, capture_environment, resolve_device
from vnas.profiler.allocator import keep_freed_memory
from vnas.report import read, render
from vnas.report.files import write
from vnas.report.reading import shown_url
from vnas.search import front, space, store
from vnas.search.driver import search
from vnas.search.settings import Settings, settle
from vnas.search.terminal import Terminal
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
    device = resolve_device(args.gpu, args.device)
    environment = capture_environment(device)
    terminal.device(environment, str(device))
    settings = settle(args)
    config = settings.config
    data = open_data(config.data)
    terminal.data(data)
    space.check(config.space, in_chans=data.in_chans, num_classes=data.num_classes, anneal=config.training.anneal)
    settings.out.mkdir(parents=True, exist_ok=True)
    with _only_run(settings):
        try:
            opened = _open(settings, environment, data, terminal, resume=args.resume)
            with terminal:
                search(opened, data, device, terminal)
                front.retrain(opened, data, device, settings.out, terminal)
            record = read(settings.url, config.name)
            terminal.finished(record, render(record, settings.out))
        except KeyboardInterrupt:
            terminal.interrupted(resume_command(args, settings))
            return EXIT_INTERRUPTED
    completed = any(entry.state == TrialState.COMPLETE for entry in opened.known.values())
    return EXIT_DONE if completed else EXIT_FAILED


def _open(
    settings: Settings, environment: Environment, data: Data, terminal: Terminal, *, resume: bool
) -> store.StudyStore:
    config, storage = settings.config, store.open_storage(settings.url)
    facts = store.facts(environment, data)
    if settings.exists:
        opened, recovered = store.StudyStore.resume(storage, config, facts)
        terminal.recovered(recovered)
    else:
        if resume:
            terminal.note(f"nothing to resume in {settings.out}: starting")
        own = settings.database is not None and settings.database.parent == settings.out.absolute()
        opened = store.StudyStore.create(storage, config, facts, own=own)
    write(settings.out / "study.toml", config.to_toml())
    return opened


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
