"""What a benchmark finds out, a line of JSON a finished task, so that a run that was cut short goes on.

The first line says what the results depend on; a file is only gone on with where all of that is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vnas.errors import DataError, ResumeError

T = TypeVar("T")


def read(path: Path, settings: Mapping[str, Any], made: Callable[[dict[str, Any]], T]) -> list[T]:
    """The finished tasks of a file, which is made where it does not exist. A torn last line is cut off.

    Args:
        path: of the file.
        settings: by name, what the results depend on.
        made: a task's result of what its line holds.

    Raises:
        ResumeError: the file's results came from other settings.
        DataError: a line is not what this benchmark wrote.
    """
    whole = json.loads(json.dumps(settings))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        append(path, {"settings": whole})
        return []
    text = path.read_bytes()
    kept = text[: text.rfind(b"\n") + 1]
    lines = kept.decode().splitlines()
    if not lines:
        path.unlink()
        return read(path, settings, made)
    try:
        found = json.loads(lines[0])["settings"]
        results = [made(json.loads(line)) for line in lines[1:]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of results of this benchmark ({error}); give --answers FILE") from error
    _compare(path, found, whole)
    if len(kept) < len(text):
        os.truncate(path, len(kept))
    return results


def append(path: Path, line: object) -> None:
    """Add a finished task; it is on the disk when this returns."""
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _compare(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = sorted(name for name in found.keys() | asked.keys() if found.get(name) != asked.get(name))
    if differing:
        first = differing[0]
        raise ResumeError(
            f"{path} holds results for {first} = {found.get(first)!r}, but {first} = {asked.get(first)!r} is asked for"
            f"{f' (and {len(differing) - 1} more differences)' if len(differing) > 1 else ''}; "
            "ask for the same, delete the file, or give --answers FILE"
        )
