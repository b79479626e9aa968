"""What a worker process tells its parent, one JSON object a line: where it is, and in the end what came out."""

from __future__ import annotations

import json

import vnas.errors
from vnas.errors import MeasurementError, UsageError, VnasError
from vnas.profiler.measurement import Measurement
from vnas.profiler.protocol import Progress
from vnas.profiler.records import from_plain, to_plain

Outcome = Measurement | VnasError
"""What came out of a cell. An error is a value here: it must not hide the other cells."""


def progress_line(progress: Progress) -> str:
    """One line without its end."""
    return json.dumps({"progress": to_plain(progress)})


def outcome_line(place: int, outcome: Outcome) -> str:
    """One line without its end.

    Args:
        place: of the cell in the plan.
        outcome: its measurement, or the error it ended with.
    """
    if isinstance(outcome, VnasError):
        return json.dumps({"cell": place, "error": type(outcome).__name__, "message": str(outcome)})
    return json.dumps({"cell": place, "measurement": outcome.to_dict()}, allow_nan=False)


def parse(line: str | bytes) -> Progress | tuple[int, Outcome]:
    """The inverse of both; an error comes back as the class it was.

    Raises:
        UsageError: not such a line.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise UsageError(f"not JSON ({error})") from error
    match message:
        case {"progress": dict(progress)}:
            return from_plain(Progress, progress, "progress")
        case {"cell": int(place), "measurement": dict(measurement)}:
            return place, Measurement.from_dict(measurement)
        case {"cell": int(place), "error": str(name), "message": str(text)}:
            return place, _error(name, text)
    raise UsageError("neither progress, a measurement nor an error")


def _error(name: str, text: str) -> VnasError:
    kind = getattr(vnas.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, VnasError):
        try:
            return kind(text)
        except TypeError:  # a class that is not made of its message alone
            pass
    return MeasurementError(text)
