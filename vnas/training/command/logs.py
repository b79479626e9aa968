"""What a run leaves behind step by step: a table that any program reads, and events that TensorBoard reads.

A run that goes on from a checkpoint goes on in the same log: what was written after the checkpoint is dropped, since
those steps are taken again.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

from vnas.errors import MissingExtraError, UsageError
from vnas.profiler.results import write_whole


@dataclass(frozen=True)
class Row:
    """The state of a run after one step.

    Attributes:
        step: steps done.
        epoch: epoch of the step, from 0.
        loss: training loss of the step.
        lr: its learning rate.
        slope_min: smallest lambda of a pair at that step.
        slope_max: largest lambda of a pair at that step.
        images_per_second: training images a second since the run began.
        val_top1_training_form: accuracy of the net as it is, in percent; None where nobody looked.
        val_top1_fused: accuracy of the net with lambda set to 1, fused, in percent; None where nobody looked.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    slope_min: float
    slope_max: float
    images_per_second: float
    val_top1_training_form: float | None = None
    val_top1_fused: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))


def read_log(path: Path) -> tuple[Row, ...]:
    """The rows of a log; none where there is no file. Half a row at the end, of a run that was killed, is left out.

    Raises:
        UsageError: it is not such a log.
    """
    if not path.is_file():
        return ()
    # What follows the last line break is half a row, even where it looks like a whole one: 48.7 of 48.75.
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    lines = list(csv.reader(io.StringIO(whole)))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UsageError(f"{path} is not the log of a training run; its columns must be {','.join(COLUMNS)}")
    return tuple(row for cells in lines[1:] if (row := _row(cells)) is not None)


def _row(cells: Sequence[str]) -> Row | None:
    if len(cells) != len(COLUMNS):
        return None
    try:
        numbers = [float(cell) if cell else None for cell in cells]
        step, epoch, *rest = numbers
        if step is None or epoch is None or None in rest[:5]:
            return None
        values: list[Any] = [int(step), int(epoch), *rest]
        return Row(*values)
    except ValueError:
        return None


def _line(row: Row) -> str:
    return ",".join("" if value is None else repr(value) for value in astuple(row)) + "\n"


class Log:
    """The table of a run, a row a look at the loss, and TensorBoard's events where they are wanted.

    Args:
        path: the table.
        events: folder for TensorBoard's events, or None for none.

    Raises:
        MissingExtraError: events are wanted and tensorboard is not installed.
    """

    def __init__(self, path: Path, events: Path | None = None) -> None:
        self._path = path
        self._events = events
        self._file: IO[str] | None = None
        self._board: Any = None
        if events is not None:
            check_tensorboard()

    def write(self, row: Row) -> None:
        """Append a row; the first one decides which rows of an earlier start are kept: those of steps before it."""
        if self._file is None:
            self._begin(row.step)
        assert self._file is not None
        self._file.write(_line(row))
        if self._board is not None:
            for name, value in scalars(row).items():
                self._board.add_scalar(name, value, row.step)

    def finish(self, val_top1_training_form: float, val_top1_fused: float) -> None:
        """Put the final accuracies, in percent, into the last row, if there is one."""
        self.close()
        found = read_log(self._path)
        if not found:
            return
        *rows, last = found
        last = replace(last, val_top1_training_form=val_top1_training_form, val_top1_fused=val_top1_fused)
        _rewrite(self._path, (*rows, last))
        if self._events is not None:
            self._board = _board(self._events, None)
            self._board.add_scalar("validation/top1_training_form", val_top1_training_form, last.step)
            self._board.add_scalar("validation/top1_fused", val_top1_fused, last.step)
            self.close()

    def close(self) -> None:
        """Write out what is held back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def _begin(self, step: int) -> None:
        _rewrite(self._path, [row for row in read_log(self._path) if row.step < step])
        # Line by line, so that a kill loses no step that a checkpoint has.
        self._file = self._path.open("a", buffering=1, encoding="utf-8", newline="")
        if self._events is not None:
            self._board = _board(self._events, step)


def _rewrite(path: Path, rows: Sequence[Row]) -> None:
    text = ",".join(COLUMNS) + "\n" + "".join(map(_line, rows))
    write_whole(path, text.encode())


def scalars(row: Row) -> dict[str, float]:
    """What TensorBoard shows of a row, by tag."""
    tags = {
        "training/loss": row.loss,
        "training/lr": row.lr,
        "training/lambda_min": row.slope_min,
        "training/lambda_max": row.slope_max,
        "training/images_per_second": row.images_per_second,
        "validation/top1_training_form": row.val_top1_training_form,
        "validation/top1_fused": row.val_top1_fused,
    }
    return {tag: value for tag, value in tags.items() if value is not None}


def has_tensorboard() -> bool:
    """Whether events can be written here."""
    return importlib.util.find_spec("tensorboard") is not None


def check_tensorboard() -> None:
    """Refuse to write events without the package that writes them.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    if not has_tensorboard():
        raise MissingExtraError('tensorboard is not installed; type pip install "vnas[tensorboard]", or leave it out')


def _board(folder: Path, purge_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)
