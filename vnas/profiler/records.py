"""Frozen dataclasses to plain values and back, strictly: what is written is what is read, or an error says why."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vnas.errors import UsageError, nearest

T = TypeVar("T")

LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a field with a default that files of the same schema may lack: those written before there was one."""


def to_plain(value: object) -> Any:
    """The value with dataclasses and mappings as dicts and tuples as lists: what ``json.dumps`` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    return value


def from_plain(kind: type[T], data: object, where: str) -> T:
    """A dataclass from what ``to_plain`` made of it.

    Args:
        kind: the dataclass. Its fields are numbers, strings, booleans, literals, tuples, mappings of strings, other
            dataclasses, or one of these or None.
        data: a mapping with exactly the fields of the dataclass; one that is ``LATER`` may be missing.
        where: what an error calls the place, e.g. ``measurement``.

    Raises:
        UsageError: an unknown or missing key, or a value of the wrong kind; the message says where.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} is {_shown(data)}; it must be an object with named fields")
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for key in data:
        if key not in names:
            raise UsageError(f"{where} has an unknown key {key!r}.{nearest(str(key), names)}")
    missing = [field.name for field in fields if field.name not in data and not field.metadata.get("later")]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}")
    return kind(**{name: _convert(hints[name], data[name], f"{where}.{name}") for name in names if name in data})


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(only, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} is {_shown(value)}; it must be a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise UsageError(f"{where} has {len(value)} items; it must have {len(arguments)}")
        pairs = zip(arguments, value, strict=True)
        return tuple(_convert(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(pairs))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {_shown(value)}; it must be an object")
        return {
            _convert(str, key, where): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()
        }
    if origin is Literal:
        if value not in arguments:
            allowed = ", ".join(map(repr, arguments))
            raise UsageError(f"{where} is {_shown(value)}; allowed are {allowed}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise UsageError(f"{where} is {_shown(value)}; it must be of type {hint.__name__}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
