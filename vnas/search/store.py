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
from vnas.search.interrupts import protected
from vnas.training import Data

METRICS = ["val_top1", "latency_ms"]
BUDGET_CONSTRAINT = "latency_over_budget_ms"

# Switches and versions that may change a latency without making it another kind of device.
_CIRCUMSTANCES = ("torch", "cuda", "cudnn", "driver", "python", "cpu_governor", "matmul_precision", "os")

# What a duplicate takes over from the trial that it repeats.
_COPIED = (
    *("digest", "candidate", "architecture", "description", "depth", "anneal"),
    *("params", "macs", "activation_bytes", "weight_bytes", "kernels"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "val_top1", "epochs", "over_budget"),
    "reason",
)


@dataclass(frozen=True, slots=True)
class Known:
    """A candidate that this study has an answer for; ``attributes`` are those that a duplicate takes over."""

    number: int
    state: TrialState
    values: tuple[float, ...] | None
    attributes: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the start of a resumed run found.

    Attributes:
        finished: trials that are done.
        requeued: draws of interrupted trials that will be evaluated again.
        completed: trials that were killed after their last answer, and are complete with it.
        changes: what is different since the study began, in words.
    """

    finished: int
    requeued: int = 0
    completed: int = 0
    changes: tuple[str, ...] = ()


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
        self.repeated = 0
        for trial in study.get_trials(deepcopy=False):
            # A failure that was the machine's, not the candidate's, is worth another try in another run.
            if trial.state.is_finished() and not trial.user_attrs.get("unexpected"):
                self._learn(trial)

    @classmethod
    def create(
        cls, storage: optuna.storages.BaseStorage, config: StudyConfig, facts: Mapping[str, Any], *, own: bool
    ) -> StudyStore:
        """Begin a study.

        Args:
            storage: where to.
            config: what to run.
            facts: from :func:`facts`.
            own: whether the storage is this run's alone, so that an empty study in it can only be its own.

        Raises:
            ResumeError: the storage holds another study of this name.
        """
        with protected():
            _clear_way(storage, config.name, own)
            study = optuna.create_study(
                storage=storage,
                study_name=config.name,
                directions=["maximize", "minimize"],
                sampler=sampler(config, 0),
            )
            study.set_user_attr("vnas_version", vnas.__version__)
            with _metric_names_are_stable():
                study.set_metric_names(METRICS)
            for key, value in facts.items():
                study.set_user_attr(key, value)
            study.set_user_attr("started_at", time.time())
            # Last: a study without this attribute was killed while it was being created, and holds nothing.
            study.set_user_attr("study", config.to_toml())
        return cls(study, config)

    @classmethod
    def resume(
        cls, storage: optuna.storages.BaseStorage, config: StudyConfig, facts: Mapping[str, Any]
    ) -> tuple[StudyStore, Recovered]:
        """Go on with a study.

        A trial that a killed run left is complete if all its answers are stored; else it is failed and its draw
        queued again.

        Raises:
            ResumeError: the study file, the data, the kind of device or its threads are not what the study began with.
        """
        study = optuna.load_study(storage=storage, study_name=config.name)
        _check_same(study.user_attrs, config, facts)
        trials = study.get_trials(deepcopy=False)
        study.sampler = sampler(config, len(trials))
        store = cls(study, config)
        with protected():
            study.set_user_attr("study", config.to_toml())
            left = [optuna.trial.Trial(study, t._trial_id) for t in trials if t.state == TrialState.RUNNING]
            recovered = [store._recover(trial) for trial in left]
        changes = _changes(study.user_attrs, facts)
        return store, Recovered(store.finished, recovered.count("requeued"), recovered.count("completed"), changes)

    def _recover(self, trial: optuna.Trial) -> str:
        """Finish a trial that a killed run left; what became of it."""
        answers = trial.user_attrs
        if {"training", "val_top1", "latency_ms"} <= answers.keys():
            self.complete(trial, answers["val_top1"], answers["latency_ms"])
            return "completed"
        return "requeued" if self.interrupt(trial, "the run was killed during this trial") else "dropped"

    def ask(self, draw: Mapping[str, Any] | None = None) -> optuna.Trial:
        """A new trial.

        Args:
            draw: parameters to use instead of what the sampler would choose, after those that are queued already.
        """
        if draw is not None:
            self.study.enqueue_trial(dict(draw))
        return self.study.ask()

    @property
    def asked(self) -> int:
        """Trials so far, whatever became of them."""
        return len(self.study.get_trials(deepcopy=False))

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

    def fail(self, trial: optuna.Trial, reason: str, *, traceback: str | None = None) -> FrozenTrial:
        """Finish a trial that went wrong; a traceback marks a failure that vnas did not expect."""
        trial.set_user_attr("reason", reason)
        if traceback is not None:
            self.record(trial, {"unexpected": True, "traceback": traceback})
        return self._tell(trial, TrialState.FAIL, None)

    def repeat(self, trial: optuna.Trial, candidate: Candidate) -> FrozenTrial:
        """Finish a trial that drew a known candidate, with the values known."""
        known = self.known[candidate.digest]
        self.record(trial, {**known.attributes, "duplicate_of": known.number, "seconds": 0.0})
        if "latency_ms" in known.attributes:
            self._constrain(trial, known.attributes["latency_ms"])
        return self._tell(trial, known.state, known.values)

    def interrupt(self, trial: optuna.Trial, reason: str = "interrupted") -> bool:
        """Take back a trial, so that its draw is evaluated again; a finished one stays as it is.

        Returns:
            Whether there was a draw to queue again.
        """
        with protected():
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            if frozen.state.is_finished():
                return False
            # A draw that was queued itself may not have been suggested in full yet.
            draw = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
            if draw:
                self.study.enqueue_trial(draw)
            trial.set_user_attr("interrupted", True)
            self.fail(trial, reason)
        return bool(draw)

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
        with protected():
            trial.set_user_attr("finished_at", time.time())
            frozen = self.study.tell(trial, values=values, state=state)
            self._learn(frozen)
        return frozen

    def _learn(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if "latency" in attributes and "duplicate_of" not in attributes:
            self._latencies.setdefault(attributes["digest"], Measurement.from_dict(attributes["latency"]))
        if attributes.get("interrupted"):
            return
        self.finished += 1
        self.repeated = self.repeated + 1 if "duplicate_of" in attributes else 0
        if "duplicate_of" in attributes:
            return
        self.counted += 1
        if "candidate" in attributes:
            values = tuple(trial.values) if trial.values is not None else None
            kept = {key: attributes[key] for key in _COPIED if key in attributes}
            self.known.setdefault(attributes["candidate"], Known(trial.number, trial.state, values, kept))


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


def stored(storage: optuna.storages.BaseStorage) -> dict[str, str]:
    """The studies of vnas in a storage: their settings as TOML, by name. Nothing is changed."""
    return {
        study.study_name: str(study.user_attrs["study"])
        for study in storage.get_all_studies()
        if "study" in study.user_attrs and "vnas_version" in study.user_attrs
    }


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
def _metric_names_are_stable() -> Iterator[None]:
    with warnings.catch_warnings():
        # Optuna still marks set_metric_names as experimental; the storage layout of the names is what matters here.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
