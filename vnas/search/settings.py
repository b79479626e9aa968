"""What the flags of a search add up to: which study, in which storage, into which directory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from vnas.config import StudyConfig, config_files, load_study, study_from_toml
from vnas.errors import ResumeError, UsageError
from vnas.report.reading import shown_url
from vnas.search import store


@dataclass(frozen=True, slots=True)
class Settings:
    """A search as asked for.

    Attributes:
        config: the study.
        out: the run directory.
        url: of the storage.
        exists: whether the storage holds the study already.
    """

    config: StudyConfig
    out: Path
    url: str
    exists: bool

    @property
    def database(self) -> Path | None:
        """The file behind the storage; None where a server is."""
        url = sqlalchemy.engine.make_url(self.url)
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            return None
        return Path(url.database)


def settle(args: argparse.Namespace) -> Settings:
    """Find the study that the flags name; nothing is written.

    Raises:
        ConfigError: no such study, or a setting that is not allowed.
        ResumeError: there is a study and no ``--resume``, or it cannot be told which one is meant.
    """
    if args.resume and args.study is None:
        config, out, url = _stored(args, "quickstart")
    else:
        config, out, url = _named(args)
    there = _studies(url) if _may_exist(args, out) else {}
    exists = config.name in there
    if exists and not args.resume and not store.shareable(url):  # a server's study is joined
        where = shown_url(url) if args.storage else str(out)
        raise ResumeError(
            f"{where} already holds study {config.name!r}. Add --resume to go on with it, or --out DIR "
            "(with --storage: --set name=NAME) to start another"
        )
    _check_directory(out, config.name)
    return Settings(config, out, url, exists)


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


def _url(args: argparse.Namespace, out: Path) -> str:
    return str(args.storage) if args.storage else sqlite_url(out / "study.db")


def _may_exist(args: argparse.Namespace, out: Path) -> bool:
    # Opening a SQLite file that is not there would create it.
    return bool(args.storage) or (out / "study.db").is_file()


def _studies(url: str) -> dict[str, str]:
    return store.stored(store.open_storage(url))


def _named(args: argparse.Namespace) -> tuple[StudyConfig, Path, str]:
    """The study of a file, or with ``--resume`` one that only the storage knows by that name."""
    name = args.study or "quickstart"
    known = name in config_files("studies") or Path(name).is_file()
    if args.resume and not known and args.storage and name in (there := _studies(args.storage)):
        config = study_from_toml(there[name], assignments(args))
    else:
        config = load_study(name, assignments(args))
    out = Path(args.out) if args.out else Path("reports") / config.name
    return config, out, _url(args, out)


def _stored(args: argparse.Namespace, default: str) -> tuple[StudyConfig, Path, str]:
    """The one study of the storage or run directory; where there is none, the default study from its file."""
    guess = Path(args.out) if args.out else Path("reports") / default
    there = _studies(_url(args, guess)) if _may_exist(args, guess) else {}
    if len(there) > 1:
        raise ResumeError(
            f"the storage holds several studies ({', '.join(sorted(there))}); say which with --study NAME"
        )
    if not there:
        return _named(args)
    ((name, text),) = there.items()
    config = study_from_toml(text, assignments(args))
    if config.name != name:
        raise ResumeError(f"study {name!r} cannot be resumed as {config.name!r}; leave --set name=... out")
    out = Path(args.out) if args.out or not args.storage else Path("reports") / name
    return config, out if args.out or args.storage else guess, _url(args, guess)


def _check_directory(out: Path, name: str) -> None:
    """Refuse a run directory that is no directory, or that is another study's."""
    first = next((path for path in (out, *out.parents) if path.exists()), None)
    if first is not None and not first.is_dir():
        raise UsageError(f"--out {out}: {first} is a file; give a directory")
    resolved = out / "study.toml"
    if not resolved.is_file():
        return
    other = study_from_toml(resolved.read_text(encoding="utf-8")).name
    if other != name:
        raise ResumeError(f"{out} is the run directory of study {other!r}, not of {name!r}; give --out DIR")
