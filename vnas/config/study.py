"""What to run: a study, read from TOML with its space resolved."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from vnas.config.options import NonNegative, Positive, Strict
from vnas.config.space import SpaceConfig
from vnas.config.tables import assign, differences, parse_assignment, read_shipped, validate
from vnas.config.training import DataConfig, TrainingConfig
from vnas.errors import ConfigError


class LatencyConfig(Strict):
    """How the fused net is timed, at batch 1."""

    target_relative: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_samples: Annotated[int, Field(ge=10)] = 50
    min_seconds: Annotated[float, Field(ge=0)] = 0.5
    max_seconds: Annotated[float, Field(gt=0)] = 15.0
    threads: Positive | None = None
    channels_last: bool = False
    budget_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LatencyConfig:
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds = {self.min_seconds} exceeds max_seconds = {self.max_seconds}")
        return self


class FrontConfig(Strict):
    """The last step: the nets of the front, trained anew and judged on the test set.

    Attributes:
        seeds: training runs a net.
        epochs_factor: length of each run, as a multiple of ``training.epochs``.
        max_nets: nets of the front that are retrained: those that add most hypervolume.
    """

    seeds: Positive = 3
    epochs_factor: Annotated[float, Field(ge=1)] = 3.0
    max_nets: Positive = 6


class RungsConfig(Strict):
    """Lengths at which a candidate is judged, each after a complete anneal; only some go on to the next.

    Attributes:
        shares: of ``training.epochs``, ascending, the last 1. One alone: every candidate is trained in full.
        strategy: how a net comes from one rung to the next (see ``vnas.training.rungs``).
        branch_share: of a rung's length that is its branch: lambda to 1, learning rate down.
        spend: share of all epochs that goes to the rungs above the first.
        last: whether nobody goes on before the last candidate was begun. That is better in the end, but what is stopped
            early has no candidate at the last rung.
        always: the first candidates of each rung that go on whatever their rank, as every preset does.
    """

    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (1.0,)
    strategy: Literal["branch", "restart", "continue"] = "continue"
    branch_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    spend: Annotated[float, Field(gt=0, lt=1)] = 0.5
    last: bool = False
    always: NonNegative = 1

    @model_validator(mode="after")
    def _ascending(self) -> RungsConfig:
        if any(low >= high for low, high in pairwise(self.shares)) or self.shares[-1] != 1.0:
            raise ValueError(f"shares = {list(self.shares)} must ascend and end with 1.0, for example [0.1, 1.0]")
        return self


class GatesConfig(Strict):
    """Which questions a candidate is asked before it is trained (see ``vnas.search.policy.gates``)."""

    duplicate: bool = True
    cost: bool = True
    predicted: bool = True
    budget: bool = True
    hopeless: bool = True
    promise: bool = True


class ConstraintsConfig(Strict):
    """The most that a net may have; None for no limit."""

    params: Positive | None = None
    macs: Positive | None = None


class WorkersConfig(Strict):
    """What happens when a worker breaks.

    Attributes:
        retries: times that a trial is tried again after its worker died or hung.
        hang_minutes: a worker that says nothing for so long is ended; it speaks at every look at the loss.
    """

    retries: NonNegative = 1
    hang_minutes: Annotated[float, Field(gt=0)] = 30.0


SamplerName = Literal["local", "tpe", "gp", "nsga2", "random", "grid"]


class StudyConfig(Strict):
    """Everything that decides what a study computes.

    Attributes:
        energy: whether energy is a third objective.
        sampler: that proposes candidates (see ``vnas.search.sampling.samplers``).
        trials: candidates that are trained, to the first rung at least.
        presets: nets that are tried first: names (``vanillanet_6``) or files of an Architecture.
        time_limit_minutes: after which no candidate is begun.
        epochs_limit: epochs of training that the search may spend.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    space: SpaceConfig
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    latency: LatencyConfig = LatencyConfig()
    rungs: RungsConfig = RungsConfig()
    gates: GatesConfig = GatesConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()
    front: FrontConfig = FrontConfig()
    workers: WorkersConfig = WorkersConfig()
    energy: bool = False
    sampler: SamplerName = "local"
    trials: Positive = 24
    presets: tuple[str, ...] = ()
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    epochs_limit: Annotated[float, Field(gt=0)] | None = None
    seed: NonNegative = 0

    def to_toml(self) -> str:
        """The study, space included, as TOML that :func:`load_study` reads back to an equal value."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


# What may change when a study is resumed: how long to go on and where copies lie, not what a trial means.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("trials", "time_limit_minutes", "epochs_limit", "data.cache", "data.cache_limit_mib"),
        *("workers.retries", "workers.hang_minutes"),
    }
)


def changed_fields(before: StudyConfig, after: StudyConfig) -> dict[str, tuple[object, object]]:
    """Old and new value of the fields that differ, by dotted name, apart from those that may change on resume."""
    found = differences(before.model_dump(mode="json"), after.model_dump(mode="json"))
    return {name: values for name, values in found.items() if name not in MAY_CHANGE_ON_RESUME}


def load_study(name_or_path: str, assignments: Iterable[str] = ()) -> StudyConfig:
    """Read a study by name or from a TOML file, with its space resolved.

    Args:
        name_or_path: a shipped study (``quickstart``) or a path to a TOML file.
        assignments: ``key=value`` texts as given to ``--set``, applied in order; values are TOML.

    Raises:
        ConfigError: no such study, or it holds something that is not allowed.
    """
    folder = Path(name_or_path).parent
    return _resolve(read_shipped(name_or_path, "studies"), assignments, f"study {name_or_path}", folder)


def study_from_toml(text: str, assignments: Iterable[str] = ()) -> StudyConfig:
    """Read back what :meth:`StudyConfig.to_toml` wrote.

    Args:
        text: a resolved study.
        assignments: ``key=value`` texts as given to ``--set``, applied in order.

    Raises:
        ConfigError: the text is not such a study, or an assignment is not allowed.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"study.toml is not valid TOML: {error}") from error
    return _resolve(table, assignments, "study.toml", Path())


def _resolve(table: dict[str, Any], assignments: Iterable[str], where: str, folder: Path) -> StudyConfig:
    settings = [parse_assignment(text) for text in assignments]
    for keys, value in settings:
        if keys == ["space"]:
            table["space"] = value
    if isinstance(table.get("space"), str):
        beside = folder / table["space"]
        table["space"] = read_shipped(str(beside) if beside.is_file() else table["space"], "search_spaces")
    for keys, value in settings:
        if keys != ["space"]:
            assign(table, keys, value)
    return validate(StudyConfig, table, where)
