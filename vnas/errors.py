"""Every error that vnas raises on purpose, and the exit code each one ends a command with.

    VnasError                        1
    +-- UsageError                   2   what was typed, or a file that was named, cannot be used
    |   +-- ConfigError                  a study or space file, or a --set
    |   +-- ArchitectureError            a net that cannot exist (also a ValueError)
    |   +-- DataError                    a data source: missing, empty, corrupt
    |   +-- ResumeError                  a run that cannot be continued as asked
    |   +-- MissingExtraError            an optional package; the message holds the pip line
    +-- DeviceError                  3   no such device
    +-- FuseError                    1   the net is not at lambda = 1 (also a ValueError)
    +-- CheckpointError              1   weights that do not fit the architecture, or an unreadable file
    +-- MeasurementError             1   a latency that could not be measured
    |   +-- DeviceMemoryError            the memory of the device ran out
    +-- TrainingError                1   a training run that ended early
        +-- NonFiniteLossError           the loss became NaN or infinite

A message says what arrived, what is allowed and what to type next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DEVICE = 3
EXIT_INTERRUPTED = 130


class VnasError(Exception):
    """Base of everything that vnas raises on purpose."""

    exit_code: int = EXIT_FAILED


class UsageError(VnasError):
    """What was typed, or a file that was named, cannot be used."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A study file, a space file or a ``--set`` holds something that is not allowed."""


class ArchitectureError(UsageError, ValueError):
    """A net that cannot exist: a vanished feature map, shapes that do not add, an unknown key."""


class DataError(UsageError):
    """A data source is missing, empty or corrupt."""


class ResumeError(UsageError):
    """A run cannot be continued as asked."""


class MissingExtraError(UsageError):
    """An optional package is not installed; the message holds the pip line."""


class DeviceError(VnasError):
    """There is no such device; the message lists those there are."""

    exit_code = EXIT_NO_DEVICE


class FuseError(VnasError, ValueError):
    """The net cannot be fused exactly: some lambda is below 1."""


class CheckpointError(VnasError):
    """Weights that do not fit the architecture, or a file that cannot be read."""


class MeasurementError(VnasError):
    """A latency could not be measured."""


class DeviceMemoryError(MeasurementError):
    """A latency could not be measured because memory ran out."""


class TrainingError(VnasError):
    """A training run ended before its time."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""

    def __init__(self, loss: float, epoch: int, step: int) -> None:
        super().__init__(
            f"the loss became {loss} at step {step} (epoch {epoch}); "
            "lower training.lr or set training.clip_grad, e.g. --set training.clip_grad=1.0"
        )
        self.loss = loss
        self.epoch = epoch
        self.step = step

    def __reduce__(self) -> tuple[type[NonFiniteLossError], tuple[float, int, int]]:
        return type(self), (self.loss, self.epoch, self.step)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the closest allowed word, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
