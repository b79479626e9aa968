"""What happens at every report of a run: a row in the log, a look at both forms now and then, a line on the screen."""

from __future__ import annotations

from pathlib import Path

from vnas.training.command.logs import Log, Row
from vnas.training.command.terminal import Terminal, epoch_line
from vnas.training.command.watching import Watch, due
from vnas.training.result import Progress, TrainingResult


class Recorder:
    """The ``progress`` of :func:`vnas.training.fit` for a run that leaves a log.

    Args:
        log: the table, which is begun or gone on with.
        events: folder for TensorBoard's events, or None for none.
        watch: holds the net in training.
        terminal: is shown where the run is.

    Attributes:
        where: the last report; None before the first.

    Raises:
        MissingExtraError: events are wanted and tensorboard is not installed.
    """

    def __init__(self, log: Path, events: Path | None, watch: Watch, terminal: Terminal) -> None:
        self._log = Log(log, events)
        self._watch = watch
        self._terminal = terminal
        self.where: Progress | None = None

    def __call__(self, where: Progress) -> None:
        """Record one report."""
        self.where = where
        look = None
        if where.step % (where.steps // where.epochs) == 0 and due(where.epoch, where.epochs):
            look = self._watch.look()
            self._terminal.say(epoch_line(where, look.training_form, look.fused))
        self._log.write(
            Row(
                step=where.step,
                epoch=where.epoch,
                loss=where.loss,
                lr=where.lr,
                slope_min=where.slope_min,
                slope_max=where.slope_max,
                images_per_second=where.images_per_second,
                val_top1_training_form=None if look is None else look.training_form,
                val_top1_fused=None if look is None else look.fused,
            )
        )
        self._terminal.progress(where)

    def finish(self, result: TrainingResult) -> None:
        """The run is over: its last row gets the accuracies that the finished net was judged with."""
        self._log.finish(result.val_top1_training_form, result.val_top1)

    def close(self) -> None:
        """Write out what is held back."""
        self._log.close()
