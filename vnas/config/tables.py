"""Tables as TOML gives them: found, changed by key=value texts, compared, and made into checked values."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from vnas.errors import ConfigError, nearest

Kind = Literal["studies", "search_spaces", "studies/recipes"]
"""Of shipped files: the folder that they lie in."""

_WORDS: dict[Kind, str] = {"studies": "study", "search_spaces": "search space", "studies/recipes": "recipe"}


def config_files(kind: Kind) -> dict[str, Path]:
    """The shipped files of a kind by name, from an installed wheel or from a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def read_shipped(name_or_path: str, kind: Kind, *others: str) -> dict[str, Any]:
    """A table from a shipped file, by its name, or from any file.

    Args:
        name_or_path: a file that is shipped goes before one of that name.
        kind: of the shipped file.
        others: names that are allowed too, for the message.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    shipped = config_files(kind)
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        allowed = (*others, *shipped)
        raise ConfigError(
            f"no {_WORDS[kind]} {name_or_path!r}: it is neither a file nor one of "
            f"{', '.join(allowed) or '(none shipped)'}.{nearest(name_or_path, allowed)}"
        )
    return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """A file's table.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Keys and value of a ``key=value`` text; a value that is not TOML is the text itself.

    Raises:
        ConfigError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_]+", part) for part in keys):
        raise ConfigError(f"--set {text!r} is not key=value; write for example --set training.epochs=5")
    try:
        return keys, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()


def assign(table: dict[str, Any], keys: Sequence[str], value: object) -> None:
    """Put a value in its place in a table, which is changed; tables on the way are made.

    Raises:
        ConfigError: what is on the way is no table.
    """
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(keys)} cannot be set: {key} is {inner!r}, not a table")
        table = inner
    table[keys[-1]] = value


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    for key in path:
        field = model.model_fields.get(str(key))
        if field is None:
            return None
        found = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        models = [a for a in found if issubclass(a, BaseModel)]
        if not models:
            return None
        model = models[0]
    return model


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    lines = []
    for item in error.errors(include_url=False):
        location = item["loc"]
        path = ".".join(str(part) for part in location) or "(top level)"
        if item["type"] == "extra_forbidden":
            parent = _model_at(model, location[:-1])
            allowed = sorted(parent.model_fields) if parent else []
            hint = nearest(str(location[-1]), allowed)
            lines.append(f"{path} is not a known key.{hint} Allowed: {', '.join(allowed)}")
        elif item["type"] == "missing":
            lines.append(f"{path} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            arrived = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            lines.append(f"{path}: {message}{arrived}")
    return ConfigError(f"{where}: " + "\n  ".join(lines))


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], table: Mapping[str, Any], where: str) -> M:
    """A model from a table as TOML gives it; for the errors see :func:`parsed`."""
    try:
        text = json.dumps(table, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: holds a value that is no number, text, list or table: {error}") from error
    try:
        # The JSON route of strict mode takes lists for tuples, and nothing else that is not of its type.
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, model, where) from error


def parsed(model: type[M], table: Mapping[str, Any], assignments: Iterable[str], where: str) -> M:
    """A model from a table as TOML gives it, with ``key=value`` texts as given to ``--set`` applied in order.

    Args:
        model: what the table must be.
        table: left as it is.
        assignments: values are TOML; keys are dotted.
        where: begins the message of an error.

    Raises:
        ConfigError: a key that the model does not have, or a value that it does not allow.
    """
    changed = copy.deepcopy(dict(table))
    for keys, value in map(parse_assignment, assignments):
        assign(changed, keys, value)
    return validate(model, changed, where)


def flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    """The values of a table and of the tables in it, by dotted name."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Old and new value of what differs between two tables, by dotted name in order; None where there is none."""
    old, new = dict(flat(before)), dict(flat(after))
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
