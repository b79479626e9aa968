"""What a net is trained with: the brief recipe, the paper's, a shipped study's, or a file.

A recipe file is TOML with a table ``training`` and, where wanted, ``data``, a ``dropout`` rate, and a table
``nets.NAME`` with what is different for a net of that name. A study file serves as well, by its ``training`` and
``data``, and so does the ``train.toml`` of a run.

The brief recipe has no file of its own: it is what the shipped studies found to work, ``quickstart`` for the digits
(where a mirrored image is another one) and ``cifar10`` for everything else, so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vnas.config import DataConfig, Strict, TrainingConfig, config_files, load_study, parsed, read_shipped
from vnas.errors import ConfigError

_STUDY_OF_THE_DIGITS, _STUDY_OF_OTHERS = "quickstart", "cifar10"

_RUN_KEYS = {"net", "digest", "image_size", "seed", "processes", "recipe"}
"""What a run's train.toml holds besides its recipe."""


class _Table(Strict):
    """What a recipe comes down to for one net."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()


class _DataTable(Strict):
    """What says where images come from, alone."""

    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class Recipe:
    """A recipe for one net, with every default filled in.

    Attributes:
        name: as it was asked for.
        origin: where it comes from, in words.
        dropout: rate before the classifier.
        training: the run.
        data: source, cuts and pipeline.
    """

    name: str
    origin: str
    dropout: float
    training: TrainingConfig
    data: DataConfig

    def to_dict(self) -> dict[str, Any]:
        """As plain values for TOML and JSON; what is None is left out."""
        return {
            "recipe": self.name,
            "dropout": self.dropout,
            "training": self.training.model_dump(mode="json", exclude_none=True),
            "data": self.data.model_dump(mode="json", exclude_none=True),
        }


def recipe_files() -> dict[str, Path]:
    """The shipped recipe files by name."""
    return config_files("studies/recipes")


def load_recipe(name_or_path: str, net: str, source: str, assignments: Iterable[str] = ()) -> Recipe:
    """Find a recipe and fill it in for a net.

    Args:
        name_or_path: ``brief``, a shipped recipe (``paper``), a shipped study, or a TOML file of either kind.
        net: name of the net, by which a recipe may have values of its own.
        source: the data source; it goes into ``data.source``.
        assignments: ``key=value`` texts as given to ``--set``, applied in order; values are TOML.

    Raises:
        ConfigError: no such recipe, or it holds something that is not allowed.
    """
    table, origin = _found(name_or_path, source)
    table, row = _for_net(table, net, origin)
    _inner(table, "training", origin)
    _inner(table, "data", origin)["source"] = source
    found = parsed(_Table, table, assignments, f"recipe {name_or_path}")
    return Recipe(name_or_path, f"{origin}{row}", found.dropout, found.training, found.data)


def data_table(table: Mapping[str, Any], assignments: Iterable[str] = ()) -> DataConfig:
    """A ``data`` table with ``data.key=value`` texts applied, without a recipe around it.

    Raises:
        ConfigError: it holds something that is not allowed.
    """
    return parsed(_DataTable, {"data": dict(table)}, assignments, "--set" if assignments else "data").data


def _found(name: str, source: str) -> tuple[dict[str, Any], str]:
    if name == "brief":
        study = _STUDY_OF_THE_DIGITS if source == "digits" else _STUDY_OF_OTHERS
        return _of_study(study), f"that of study {study}"
    studies = config_files("studies")
    if name in studies:
        return _of_study(name), f"that of study {name}"
    table = read_shipped(name, "studies/recipes", "brief", *studies)
    if "space" in table:
        return _of_study(name), f"that of the study in {name}"
    if table.keys() >= _RUN_KEYS:
        table = {key: value for key, value in table.items() if key not in _RUN_KEYS}
    return table, f"the recipe {name}" if name in recipe_files() else name


def _of_study(name_or_path: str) -> dict[str, Any]:
    study = load_study(name_or_path)
    return {
        "training": study.training.model_dump(mode="json", exclude_none=True),
        "data": study.data.model_dump(mode="json", exclude_none=True),
    }


def _for_net(table: Mapping[str, Any], net: str, origin: str) -> tuple[dict[str, Any], str]:
    """The table with a net's own values laid over it, and what to say about that."""
    changed = dict(table)
    nets = changed.pop("nets", None)
    if nets is None:
        return changed, ""
    if not isinstance(nets, Mapping) or not all(isinstance(row, Mapping) for row in nets.values()):
        raise ConfigError(f"{origin}: nets must hold tables, such as [nets.vanillanet_6]")
    if net not in nets:
        return changed, f", which has no values of {net}'s own (it has those of {', '.join(nets)})"
    changed["training"] = {**_inner(changed, "training", origin), **nets[net]}
    return changed, f" with the values of {net}"


def _inner(table: dict[str, Any], key: str, origin: str) -> dict[str, Any]:
    inner = table.get(key, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{origin}: {key} is {inner!r}; it must be a table, [{key}]")
    table[key] = dict(inner)
    made: dict[str, Any] = table[key]
    return made
