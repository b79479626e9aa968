"""Optuna's storage to a :class:`Record`. Nothing is written: a SQLite file is opened read-only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vnas.errors import UsageError, nearest
from vnas.report.record import Record, Retrained
from vnas.report.trial_frame import frame_of, number

if TYPE_CHECKING:
    import optuna

_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):(?:\S*)@")
_PASSWORD_OPTION = re.compile(r"(?i)((?:password|passwd|pwd|sslpassword)=)[^&\s]*")


def shown_url(url: str) -> str:
    """A storage URL as it may be shown: without its password."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def _read_only(path: Path) -> str:
    from sqlalchemy import URL

    # SQLite's own URI form takes mode=ro; without it opening a file that is not there would create it.
    uri = f"file:{quote(str(path.absolute()))}"
    return URL.create("sqlite", database=uri, query={"mode": "ro", "uri": "true"}).render_as_string()


def _openable(url: str) -> str:
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return url
    database = parsed.database
    if parsed.get_backend_name() != "sqlite" or not database or database.startswith((":memory:", "file:")):
        return url
    if not Path(database).is_file():
        raise UsageError(f"there is no database {database}; give a run directory, or the URL that --storage had")
    return _read_only(Path(database))


@contextmanager
def _opened(url: str, name: str) -> Iterator[optuna.storages.RDBStorage]:
    import optuna
    import sqlalchemy.exc

    try:
        storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
    except (
        *(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError),
        *(RuntimeError, ImportError, ValueError, AssertionError),
    ) as error:
        raise UsageError(
            f"the storage {name} cannot be read ({type(error).__name__}); give a run directory, or the URL that "
            "--storage had, for example sqlite:///FILE.db"
        ) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _retrained(attributes: Mapping[str, Any]) -> tuple[Retrained, ...]:
    found = []
    for key, value in attributes.items():
        if not key.startswith("front/") or key.endswith("/latency") or not isinstance(value, Mapping):
            continue
        if not isinstance(value.get("test_top1"), int | float):
            continue
        found.append(
            Retrained(
                digest=str(value["digest"]),
                candidate=str(value["candidate"]),
                trial=int(value["trial"]),
                seed=int(value["seed"]),
                val_top1=float(value["val_top1"]),
                test_top1=float(value["test_top1"]),
                epochs=int(value["epochs"]),
                seconds=number(value.get("seconds")),
                chosen=bool(value.get("chosen", False)),
            )
        )
    return tuple(sorted(found, key=lambda entry: (entry.trial, entry.seed)))


def read(storage_url: str, study_name: str) -> Record:
    """Read a study from an Optuna storage, finished or still running.

    Args:
        storage_url: as Optuna takes it, for example ``sqlite:///study.db``.
        study_name: name of the study there.

    Raises:
        UsageError: no such storage or study, or a study that ``vnas.search`` did not write.
    """
    return _read(_openable(storage_url), shown_url(storage_url), study_name)


def _read(url: str, name: str, study_name: str) -> Record:
    import optuna

    from vnas.config import study_from_toml

    with _opened(url, name) as storage:
        names = _study_names(storage, name)
        if study_name not in names:
            raise UsageError(
                f"there is no study {study_name!r} in {name}; it has {', '.join(names) or 'none at all'}."
                f"{nearest(study_name, names)}"
            )
        study = optuna.load_study(storage=storage, study_name=study_name)
        attributes = study.user_attrs
        trials = study.get_trials(deepcopy=False)
    if not isinstance(attributes.get("study"), str):
        raise UsageError(f"study {study_name!r} was not written by vnas.search: it holds no settings; give another")
    latencies = {
        key.split("/")[1]: value
        for key, value in attributes.items()
        if re.fullmatch(r"front/[^/]+/latency", key) and isinstance(value, Mapping)
    }
    environment, data = attributes.get("environment"), attributes.get("data")
    return Record(
        name=study_name,
        study=study_from_toml(attributes["study"]),
        trials=frame_of(trials),
        front=_retrained(attributes),
        front_latency=latencies,
        environment=environment if isinstance(environment, Mapping) else {},
        device=attributes.get("device_kind"),
        data=data if isinstance(data, Mapping) else {},
        started_at=number(attributes.get("started_at")),
        vnas_version=attributes.get("vnas_version"),
    )


def _study_names(storage: optuna.storages.RDBStorage, name: str) -> list[str]:
    import optuna
    import sqlalchemy.exc

    try:
        return sorted(optuna.study.get_all_study_names(storage))
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UsageError(
            f"{name} holds no studies of Optuna ({type(error).__name__}); give the URL that --storage had"
        ) from None


def read_run(run_dir: str | Path, study_name: str | None = None) -> Record:
    """Read the study of a run directory.

    Args:
        run_dir: what ``vnas.search`` wrote; it holds ``study.db``.
        study_name: name of the study; the one that ``study.toml`` names, or the only one there, without it.

    Raises:
        UsageError: no such directory, no ``study.db`` in it, or several studies and nothing that tells which.
    """
    from vnas.config import study_from_toml

    folder = Path(run_dir)
    if not folder.is_dir():
        raise UsageError(f"there is no directory {folder}; give a run directory such as reports/quickstart")
    database = folder / "study.db"
    if not database.is_file():
        raise UsageError(
            f"{folder} is no run directory: it has no study.db. Where the run had --storage, give that URL and "
            "--study NAME"
        )
    url = _read_only(database)
    resolved = folder / "study.toml"
    if study_name is None and resolved.is_file():
        study_name = study_from_toml(resolved.read_text(encoding="utf-8")).name
    if study_name is None:
        with _opened(url, str(database)) as storage:
            names = _study_names(storage, str(database))
        if len(names) != 1:
            raise UsageError(
                f"{database} holds {len(names)} studies ({', '.join(names) or 'none'}) and there is no study.toml "
                "beside it; say which with --study NAME"
            )
        study_name = names[0]
    return _read(url, str(database), study_name)
