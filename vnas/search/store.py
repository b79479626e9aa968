"""A study in Optuna's storage: the one source of truth of a run.

What a trial learned is written before it is announced. A run that was killed leaves one trial RUNNING; the next
start fails it, says so, and asks for the same draw again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

import vnas
from vnas.config import StudyConfig, changed_fields, study_from_toml
from vnas.errors import ResumeError
from vnas.evaluate import Candidate
from vnas.profiler import Environment, Measurement
from vnas.report.reading import shown_url
from vnas.training import Data

METRICS = ["val_top1", "latency_ms"]
BUDGET_CONSTRAINT = "latency_over_budget_ms"

_FACTS = {"device_kind", "environment", "data", "vnas_version", "started_at"}

# What a duplicate takes over from the trial that it repeats.
_COPIED = (
    *("digest", "candidate", "architecture", "description", "depth", "anneal"),
    *("params", "macs", "activation_bytes", "weight_bytes", "kernels"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "val_top1", "epochs", "over_budget"),
)


@dataclass(frozen=True, slots=True)
class Known:
    """A candidate that this study has an answer for."""

    number: int
    state: TrialState
    values: tuple[float, ...] | None
    attributes: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the start of a resumed run found."""

    finished: int
    requeued: int


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open or create the database behind a storage URL.

    Raises:
        ResumeError: there is no such database, or it is not one of Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": _connect_args(url)})
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, ValueError) as error:
        cause = type(error).__name__ if "://" in str(error) else f"{type(error).__name__}: {error}"
        raise ResumeError(
            f"the storage {shown_url(url)} cannot be opened ({cause}); give --storage sqlite:///FILE.db, "
            "or another database URL that SQLAlchemy knows"
        ) from None


def _connect_args(url: str) -> dict[str, Any]:
    # A report being read must not fail a write at once.
    return {"timeout": 60} if url.startswith("sqlite") else {}


class StudyStore:
    """One study in a storage. Created by :meth:`create` or :meth:`resume`."""

    def __init__(self, study: optuna.Study, config: StudyConfig) -> None:
        self.study = study
        self.config = config
        self.known: dict[str, Known] = {}
        self._latencies: dict[str, Measurement] = {}
        self.counted = 0
        self.finished = 0
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._learn(trial)

    @classmethod
    def create(cls, storage: optuna.storages.BaseStorage, config: StudyConfig, facts: Mapping[str, Any]) -> StudyStore:
        """Begin a study.

        Args:
            storage: where to.
            config: what to run.
            facts: ``device_kind``, ``environment`` and ``data``, as JSON values.
        """
        study = optuna.create_study(
            storage=storage, study_name=config.name, directions=["maximize", "minimize"], sampler=sampler(config, 0)
        )
        with _metric_names_are_stable():
            study.set_metric_names(METRICS)
        for key, value in facts.items():
            study.set_user_attr(key, value)
        study.set_user_attr("vnas_version", vnas.__version__)
        study.set_user_attr("started_at", time.time())
        # Last: a study without this attribute was killed while it was being created, and holds nothing.
        study.set_user_attr("study", config.to_toml())
        return cls(study, config)

    @classmethod
    def resume(
        cls, storage: optuna.storages.BaseStorage, config: StudyConfig, facts: Mapping[str, Any]
    ) -> tuple[StudyStore, Recovered]:
        """Go on with a study; trials that a killed run left are failed and their draws queued again.

        Raises:
            ResumeError: the study file, the data or the kind of device is not what the study began with.
        """
        study = optuna.load_study(storage=storage, study_name=config.name)
        attributes = study.user_attrs
        before = study_from_toml(attributes["study"])
        changed = changed_fields(before, config)
        if changed:
            old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
            listing = "; ".join(f"{name}: {_at(old, name)!r} -> {_at(new, name)!r}" for name in changed)
            raise ResumeError(
                f"study {config.name!r} was begun with other settings, so its trials cannot be compared with new "
                f"ones. Changed: {listing}. Take the change back, or start afresh with --out DIR"
            )
        if attributes["device_kind"] != facts["device_kind"]:
            raise ResumeError(
                f"study {config.name!r} measures latency on {attributes['device_kind']}; this is "
                f"{facts['device_kind']}. Go on there, or start afresh here with --out DIR"
            )
        if attributes["data"]["fingerprint"] != facts["data"]["fingerprint"]:
            raise ResumeError(
                f"the data behind {config.data.source!r} is not what study {config.name!r} began with. "
                "Bring the old data back, or start afresh with --out DIR"
            )
        trials = study.get_trials(deepcopy=False)
        study.sampler = sampler(config, len(trials))
        study.set_user_attr("study", config.to_toml())
        left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in left:
            _requeue(study, trial.params)
            storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            storage.set_trial_user_attr(trial._trial_id, "reason", "the run was killed during this trial")
            study.tell(trial.number, state=TrialState.FAIL)
        store = cls(study, config)
        return store, Recovered(finished=store.finished, requeued=len(left))

    def ask(self) -> optuna.Trial:
        """A new trial."""
        return self.study.ask()

    def latency_of(self, architecture_digest: str) -> Measurement | None:
        """The latency of an architecture that this study has measured."""
        return self._latencies.get(architecture_digest)

    def record(self, trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
        """Store what became known of a running trial."""
        for key, value in attributes.items():
            trial.set_user_attr(key, value)

    def complete(self, trial: optuna.Trial, val_top1: float, latency_ms: float) -> FrozenTrial:
        """Finish a trial with its two objectives."""
        self._constrain(trial, latency_ms)
        return self._tell(trial, TrialState.COMPLETE, (val_top1, latency_ms))

    def reject(self, trial: optuna.Trial, latency_ms: float, reason: str) -> FrozenTrial:
        """Finish a trial that was not trained because of its latency."""
        trial.set_user_attr("reason", reason)
        self._constrain(trial, latency_ms)
        return self._tell(trial, TrialState.PRUNED, None)

    def fail(self, trial: optuna.Trial, reason: str) -> FrozenTrial:
        """Finish a trial that went wrong."""
        trial.set_user_attr("reason", reason)
        return self._tell(trial, TrialState.FAIL, None)

    def repeat(self, trial: optuna.Trial, candidate: Candidate) -> FrozenTrial:
        """Finish a trial that drew a known candidate, with the values known."""
        known = self.known[candidate.digest]
        self.record(trial, {key: known.attributes[key] for key in _COPIED if key in known.attributes})
        self.record(trial, {"duplicate_of": known.number, "seconds": 0.0})
        if "latency_ms" in known.attributes:
            self._constrain(trial, known.attributes["latency_ms"])
        if "reason" in known.attributes:
            trial.set_user_attr("reason", known.attributes["reason"])
        return self._tell(trial, known.state, known.values)

    def interrupt(self, trial: optuna.Trial) -> None:
        """Take back a trial that was interrupted; the next run evaluates the same draw."""
        _requeue(self.study, trial.params)
        trial.set_user_attr("interrupted", True)
        self.fail(trial, "interrupted")

    def front_results(self) -> dict[str, Any]:
        """What retraining the front has stored, by key without the ``front/``."""
        return {
            key.removeprefix("front/"): value
            for key, value in self.study.user_attrs.items()
            if key.startswith("front/")
        }

    def set_front_result(self, key: str, value: Any) -> None:
        """Store a result of retraining the front."""
        self.study.set_user_attr(f"front/{key}", value)

    def _constrain(self, trial: optuna.Trial, latency_ms: float) -> None:
        budget = self.config.latency.budget_ms
        if budget is not None:
            trial.set_constraint(BUDGET_CONSTRAINT, latency_ms - budget)

    def _tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None) -> FrozenTrial:
        trial.set_user_attr("finished_at", time.time())
        frozen = self.study.tell(trial, values=values, state=state)
        self._learn(frozen)
        return frozen

    def _learn(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if attributes.get("interrupted"):
            return
        self.finished += 1
        if "duplicate_of" in attributes:
            return
        self.counted += 1
        if "candidate" in attributes:
            values = tuple(trial.values) if trial.values is not None else None
            self.known.setdefault(attributes["candidate"], Known(trial.number, trial.state, values, dict(attributes)))
        if "latency" in attributes:
            self._latencies.setdefault(attributes["digest"], Measurement.from_dict(attributes["latency"]))


def sampler(config: StudyConfig, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of a study; its seed is derived from the study's and from how many trials there are already.

    Optuna does not store a sampler's generator: the same seed after a resume would repeat the start-up draws.
    """
    seed = int(np.random.SeedSequence([config.seed, trials]).generate_state(1)[0])
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, min(50, config.trials // 4)))
    return optuna.samplers.TPESampler(seed=seed)


def find(storage: optuna.storages.BaseStorage, name: str) -> str | None:
    """The TOML text of the study of this name, or None where there is none.

    A run killed in the very act of creating its study leaves an empty one, which is removed.

    Raises:
        ResumeError: there is a study of this name that vnas did not make.
    """
    for study in storage.get_all_studies():
        if study.study_name != name:
            continue
        text = study.user_attrs.get("study")
        if text is not None:
            return str(text)
        if storage.get_n_trials(study._study_id) == 0 and study.user_attrs.keys() <= _FACTS:
            storage.delete_study(study._study_id)
            return None
        raise ResumeError(
            f"the storage holds a study {name!r} that is not one of vnas; give another name with --set name=NAME"
        )
    return None


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


def _requeue(study: optuna.Study, params: Mapping[str, Any]) -> None:
    if params:
        study.enqueue_trial(dict(params))


def _at(table: Any, path: str) -> Any:
    for key in path.split("."):
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


@contextmanager
def _metric_names_are_stable() -> Iterator[None]:
    with warnings.catch_warnings():
        # Optuna still marks set_metric_names as experimental; the storage layout of the names is what matters here.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
