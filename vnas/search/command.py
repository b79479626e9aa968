"""``python -m vnas.search`` put together: settings, device, data, storage, loop, front, report."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy

from vnas.config import StudyConfig, load_study, study_from_toml
from vnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ResumeError
from vnas.profiler import capture_environment, resolve_device
from vnas.report import read, render
from vnas.report.files import write
from vnas.report.reading import shown_url
from vnas.search import front, space, store
from vnas.search.driver import search
from vnas.search.terminal import Terminal
from vnas.training import open_data

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; two runs in one directory are then not noticed
    fcntl = None  # type: ignore[assignment]


def run(args: argparse.Namespace) -> int:
    """Run a study to its end, or until it is interrupted.

    Args:
        args: as parsed by :func:`vnas.search.cli.parser`.

    Returns:
        The exit code.

    Raises:
        VnasError: what was asked for cannot be done.
    """
    terminal = Terminal()
    device = resolve_device(args.gpu, args.device)
    environment = capture_environment(device)
    terminal.device(environment, str(device))

    named = None if args.resume and args.study is None else load_study(args.study or "quickstart", assignments(args))
    out = Path(args.out) if args.out else Path("reports") / (named.name if named else "quickstart")
    url = args.storage or sqlite_url(out / "study.db")
    config, exists = _settle(args, named, out, url)
    data = open_data(config.data)
    terminal.data(data)
    space.check(config.space, in_chans=data.in_chans, num_classes=data.num_classes, anneal=config.training.anneal)
    out.mkdir(parents=True, exist_ok=True)
    with _only_run(out):
        storage = store.open_storage(url)
        facts = store.facts(environment, data)
        if exists:
            opened, recovered = store.StudyStore.resume(storage, config, facts)
            terminal.recovered(recovered)
        else:
            if args.resume:
                terminal.note(f"nothing to resume in {out}: starting")
            opened = store.StudyStore.create(storage, config, facts)
        write(out / "study.toml", config.to_toml())
        try:
            with terminal:
                search(opened, data, device, terminal)
                front.retrain(opened, data, device, out, terminal)
        except KeyboardInterrupt:
            terminal.interrupted(_resume_line(args, out))
            return EXIT_INTERRUPTED
        record = read(url, config.name)
        paths = render(record, out)
        terminal.finished(record, paths)
        completed = any(entry.state == optuna.trial.TrialState.COMPLETE for entry in opened.known.values())
        return EXIT_DONE if completed else EXIT_FAILED


def assignments(args: argparse.Namespace) -> list[str]:
    """The flags that stand for a field of the study, as ``key=value``, then every ``--set``."""
    flags = {
        "trials": args.trials,
        "time_limit_minutes": args.time,
        "latency.budget_ms": args.latency_budget,
        "seed": args.seed,
    }
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    if args.data is not None:
        given.append("data.source=" + _toml_string(args.data))
    return given + list(args.set)


def sqlite_url(path: Path) -> str:
    """The storage URL of a file, whatever characters its path has."""
    return sqlalchemy.URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)


def _toml_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _settle(args: argparse.Namespace, named: StudyConfig | None, out: Path, url: str) -> tuple[StudyConfig, bool]:
    """The study to run, and whether it is in the storage already."""
    if args.storage or (out / "study.db").is_file():
        storage = store.open_storage(url)
        names = [named.name] if named else [study.study_name for study in storage.get_all_studies()]
        found = {name: text for name in names if (text := store.find(storage, name)) is not None}
        if found and not args.resume:
            name = next(iter(found))
            count = storage.get_n_trials(storage.get_study_id_from_name(name))
            raise ResumeError(
                f"{shown_url(url) if args.storage else out} already holds study {name!r} with {count} trials. "
                "Add --resume to go on with it, or --out DIR (or --set name=NAME) to start another"
            )
        if len(found) > 1:
            raise ResumeError(f"the storage holds several studies ({', '.join(found)}); say which with --study")
        if found:
            stored = next(iter(found.values()))
            return named or study_from_toml(stored, assignments(args)), True
    return named or load_study("quickstart", assignments(args)), False


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Hold the run directory against a second run; the lock goes with the process, however it ends."""
    if fcntl is None:
        yield
        return
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResumeError(
                f"another run is at work in {out}; wait for it, or give this one its own --out DIR"
            ) from None
        yield


def _resume_line(args: argparse.Namespace, out: Path) -> str:
    words = ["python -m vnas.search"]
    if args.gpu is not None:
        words += ["--gpu", args.gpu]
    if args.device is not None:
        words += ["--device", args.device]
    if args.storage is not None:
        words += ["--storage", shlex.quote(shown_url(args.storage))]
    return " ".join([*words, "--out", shlex.quote(str(out)), "--resume"])
