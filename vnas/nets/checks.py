"""Checks on the values and keys that an architecture is made of; each raises ArchitectureError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from vnas.errors import ArchitectureError, nearest


def check_int(where: str, value: object, least: int) -> None:
    """Raise ArchitectureError unless ``value`` is a whole number from ``least`` up; a bool is not one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArchitectureError(f"{where} is {value!r}; it must be a whole number, at least {least}")
    if value < least:
        raise ArchitectureError(f"{where} is {value}; it must be at least {least}")


def check_word(where: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ArchitectureError unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise ArchitectureError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}.{hint}")


def check_mapping(where: str, data: object) -> Mapping[str, Any]:
    """``data``, if it has keys at all; otherwise ArchitectureError."""
    if not isinstance(data, Mapping):
        raise ArchitectureError(f"{where} is {data!r}; it must be an object with keys")
    return data


def check_keys(where: str, data: object, kind: type) -> Mapping[str, Any]:
    """``data``, if its keys are fields of the dataclass ``kind`` and none without a default is missing."""
    plain = check_mapping(where, data)
    allowed = {field.name: field for field in fields(kind)}
    for key in plain:
        if key not in allowed:
            raise ArchitectureError(
                f"{where} has an unknown key {key!r}; allowed are {', '.join(allowed)}.{nearest(str(key), allowed)}"
            )
    missing = [name for name, field in allowed.items() if field.default is MISSING and name not in plain]
    if missing:
        raise ArchitectureError(f"{where} lacks the key {missing[0]!r}; it needs {', '.join(missing)}")
    return plain
