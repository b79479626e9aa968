"""A study in Optuna's storage: begun, found again and compared, with what belongs to it as a whole.

Its trials are :mod:`vnas.search.engine.ledger`'s.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.study import StudyDirection

import vnas
from vnas.config import StudyConfig, changed_fields, study_from_toml
from vnas.errors import ResumeError, VnasError
from vnas.profiler import Environment
from vnas.report.reading import shown_url
from vnas.search.engine.ledger import MISSED_HEARTBEATS
from vnas.search.interrupts import protected
from vnas.training import Data

# Switches and versions that may change a latency without making it another kind of device.
_CIRCUMSTANCES = ("torch", "cuda", "cudnn", "driver", "python", "cpu_governor", "matmul_precision", "os")

HEARTBEAT_SECONDS = 30
"""Between two signs of life of a driver that shares its study; after three times as long its trials are another's."""
BEGINNING_SECONDS = 10
"""After which a study that is not begun whole was left by a driver that was killed."""
BEGINNING_TRIES = 5
"""At creating the tables of an empty database, where others do the same."""


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open or create the database behind a storage URL; with signs of life where several machines may share it.

    Raises:
        ResumeError: there is no such database, or it is not one of Optuna's.
        VnasError: another program keeps it locked.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _opened(url)
    except (
        *(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError),
        *(RuntimeError, ImportError, ValueError),
    ) as error:
        cause = said_by(error)
        if "database is locked" in cause:
            raise VnasError(
                f"the storage {shown_url(url)} is locked by another program; once that is done, the same command "
                "with --resume goes on"
            ) from None
        if isinstance(error, ImportError) and sqlalchemy.make_url(url).get_backend_name() == "postgresql":
            cause += "; pip install 'vnas[postgres]' brings PostgreSQL's driver"
        raise ResumeError(
            f"the storage {shown_url(url)} cannot be opened ({cause}); give --storage sqlite:///FILE.db, "
            "or another database URL that SQLAlchemy knows"
        ) from None


def _opened(url: str) -> optuna.storages.RDBStorage:
    for left in reversed(range(BEGINNING_TRIES)):
        try:
            with _known_experiments():
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs={"connect_args": _connect_args(url)},
                    heartbeat_interval=HEARTBEAT_SECONDS if shareable(url) else None,
                    grace_period=MISSED_HEARTBEATS * HEARTBEAT_SECONDS if shareable(url) else None,
                )
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError) as error:
            # Drivers that start at one moment in an empty database create the same tables; one of them does.
            if not left or not any(word in str(error).lower() for word in ("already exists", "duplicate")):
                raise
            time.sleep(0.5)
    raise AssertionError("the last try returns or raises")


def said_by(error: BaseException) -> str:
    """A database error in one line, without the address it was sent to: what the database said, else what it was."""
    cause = error.__cause__ or error
    said = getattr(cause, "orig", None)
    if said is None:
        return type(cause).__name__ if "://" in str(cause) else f"{type(cause).__name__}: {cause}"
    return shown_url(str(said).splitlines()[0] if str(said) else type(said).__name__)


def _connect_args(url: str) -> dict[str, Any]:
    # A report being read must not fail a write at once.
    return {"timeout": 60} if url.startswith("sqlite") else {}


def shareable(url: str) -> bool:
    """Whether drivers on several machines may work on the studies of a storage: all but a SQLite file's."""
    return sqlalchemy.make_url(url).get_backend_name() != "sqlite"


def create(
    storage: optuna.storages.BaseStorage,
    config: StudyConfig,
    facts: Mapping[str, Any],
    *,
    own: bool,
    shared: bool = False,
) -> optuna.Study | None:
    """Begin a study; None where another driver has begun it in this moment.

    Args:
        storage: where to.
        config: what to run.
        facts: from :func:`facts`.
        own: whether the storage is this run's alone, so that an empty study in it can only be its own.
        shared: whether other drivers may begin it too.

    Raises:
        ResumeError: the storage holds another study of this name.
    """
    there = _beginning(storage, config.name) if shared else "left"
    if there == "whole":
        return None
    with protected():
        if there == "left":  # what was not there must not be cleared: it is another driver's, begun in this moment
            _clear_way(storage, config.name, own)
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=config.name,
                directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (2 if config.energy else 1)],
            )
        except optuna.exceptions.DuplicatedStudyError:
            if _beginning(storage, config.name) == "whole":
                return None
            raise
        study.set_user_attr("vnas_version", vnas.__version__)
        with _known_experiments():
            study.set_metric_names(["val_top1", "latency_ms", *(["energy_mj"] if config.energy else [])])
        for key, value in facts.items():
            study.set_user_attr(key, value)
        study.set_user_attr("started_at", time.time())
        # Last: a study without this attribute was killed while it was being created, and holds nothing.
        study.set_user_attr("study", config.to_toml())
    return study


def resume(
    storage: optuna.storages.BaseStorage, config: StudyConfig, facts: Mapping[str, Any]
) -> tuple[optuna.Study, tuple[str, ...]]:
    """Go on with a study.

    Returns:
        The study, and what is different since it began, in words.

    Raises:
        ResumeError: the study file, the data, the kind of device or its threads are not what the study began with.
    """
    study = optuna.load_study(storage=storage, study_name=config.name)
    attributes = study.user_attrs
    _check_same(attributes, config, facts)
    if attributes["study"] != config.to_toml():
        study.set_user_attr("study", config.to_toml())
    return study, _changes(attributes, facts)


def front_results(study: optuna.Study) -> dict[str, Any]:
    """What retraining the front has stored, by key without the ``front/``."""
    return {key.removeprefix("front/"): value for key, value in study.user_attrs.items() if key.startswith("front/")}


def set_front_result(study: optuna.Study, key: str, value: Any) -> None:
    """Store a result of retraining the front."""
    study.set_user_attr(f"front/{key}", value)


def stored(storage: optuna.storages.BaseStorage) -> dict[str, str]:
    """The studies of vnas in a storage: their settings as TOML, by name. Nothing is changed."""
    return {
        study.study_name: str(study.user_attrs["study"])
        for study in storage.get_all_studies()
        if "study" in study.user_attrs and "vnas_version" in study.user_attrs
    }


def _beginning(storage: optuna.storages.BaseStorage, name: str) -> Literal["none", "whole", "left"]:
    """Whether a study is there, and begun whole within seconds or left by a driver that was killed."""
    for _ in range(BEGINNING_SECONDS * 5):
        found = [study for study in storage.get_all_studies() if study.study_name == name]
        if not found or "study" in found[0].user_attrs:
            return "whole" if found else "none"
        time.sleep(0.2)
    return "left"


def _clear_way(storage: optuna.storages.BaseStorage, name: str, own: bool) -> None:
    """Remove what a run killed in the act of creating its study left; refuse anything else of this name."""
    for study in storage.get_all_studies():
        if study.study_name != name:
            continue
        ours = "vnas_version" in study.user_attrs or (own and not study.user_attrs)
        if "study" in study.user_attrs or not ours or storage.get_n_trials(study._study_id):
            raise ResumeError(f"the storage already holds a study {name!r}; give another name with --set name=NAME")
        storage.delete_study(study._study_id)


def facts(environment: Environment, data: Data) -> dict[str, Any]:
    """The study attributes that tell where it runs and on what, as JSON values."""
    return {
        "device_kind": environment.device_kind,
        "environment": environment.to_dict(),
        "data": {
            "source": data.source,
            "num_classes": data.num_classes,
            "class_names": list(data.class_names),
            "counts": dict(data.counts),
            "splits": dict(data.splits),
            "fingerprint": data.fingerprint,
        },
    }


def _check_same(attributes: Mapping[str, Any], config: StudyConfig, facts: Mapping[str, Any]) -> None:
    name = config.name
    before = study_from_toml(attributes["study"])
    if changed := changed_fields(before, config):
        listing = "; ".join(f"{path}: {old!r} -> {new!r}" for path, (old, new) in changed.items())
        raise ResumeError(
            f"study {name!r} was begun with other settings, so its trials cannot be compared with new ones. "
            f"Changed: {listing}. Take the change back, or start afresh with --out DIR"
        )
    if attributes["device_kind"] != facts["device_kind"]:
        raise ResumeError(
            f"study {name!r} measures latency on {attributes['device_kind']}; this is {facts['device_kind']}. "
            "Go on there, or start afresh here with --out DIR"
        )
    threads, now = (table["environment"]["threads"] for table in (attributes, facts))
    if facts["environment"]["device_type"] == "cpu" and config.latency.threads is None and threads != now:
        raise ResumeError(
            f"study {name!r} measures latency with {threads} torch threads; here torch has {now}. "
            f"Go on with OMP_NUM_THREADS={threads}, or start afresh with --out DIR"
        )
    if attributes["data"]["fingerprint"] != facts["data"]["fingerprint"]:
        raise ResumeError(
            f"the data behind {config.data.source!r} is not what study {name!r} began with. "
            "Bring the old data back, or start afresh with --out DIR"
        )


def _changes(attributes: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, ...]:
    before, now = attributes["environment"], facts["environment"]
    found = [f"{key} {before.get(key)} -> {now.get(key)}" for key in _CIRCUMSTANCES if before.get(key) != now.get(key)]
    if attributes["vnas_version"] != vnas.__version__:
        found.append(f"vnas {attributes['vnas_version']} -> {vnas.__version__}")
    return tuple(found)


@contextmanager
def _known_experiments() -> Iterator[None]:
    with warnings.catch_warnings():
        # Optuna still marks set_metric_names and heartbeat_interval as experimental; how they are stored matters here.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
