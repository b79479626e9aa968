"""What a person sees of a training run: lines on standard output, and on a terminal one line that is written over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from vnas.profiler.screen import Screen, duration

if TYPE_CHECKING:
    from vnas.training.judging import Accuracy, SideBySide
    from vnas.training.result import Progress

PAUSE_SECONDS = 0.1
"""Between two states of the progress line."""


class Terminal(Screen):
    """Lines of one run.

    Args:
        out: takes the results.
        err: takes progress, where it is a terminal, and errors.
        quiet: say nothing but errors, for all but the first of several processes.
        clock: in seconds.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        err: TextIO | None = None,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(out, err)
        self._quiet = quiet
        self._clock = clock
        self._last = float("-inf")

    def say(self, *lines: str) -> None:
        """Results."""
        if not self._quiet:
            super().say(*lines)

    def progress(self, where: Progress) -> None:
        """The progress line, some times a second at most, and only where somebody watches."""
        now = self._clock()
        if self._quiet or not self.watched or (now - self._last < PAUSE_SECONDS and where.step < where.steps):
            return
        self._last = now
        self.overwrite(progress_text(where))


def progress_text(where: Progress) -> str:
    """Epoch, step, loss, lambda, learning rate, speed, and the time left at the pace so far."""
    return (
        f"epoch {where.epoch + 1}/{where.epochs}  step {where.step}/{where.steps}  loss {where.loss:.4f}  "
        f"lambda {between(where.slope_min, where.slope_max)}  lr {where.lr:.2e}  "
        f"{where.images_per_second:,.0f} images/s  {duration(seconds_left(where))} left"
    )


def epoch_line(where: Progress, training_form: float, fused: float) -> str:
    """A line for good at the end of an epoch: accuracies on the validation set, in percent."""
    return (
        f"epoch {where.epoch + 1:>3}/{where.epochs}   loss {where.loss:.4f}   "
        f"lambda {between(where.slope_min, where.slope_max)}   val {training_form:5.1f} % training form, "
        f"{fused:5.1f} % fused   ({duration(seconds_left(where))} left)"
    )


def seconds_left(where: Progress) -> float:
    """Of the run, at its pace so far."""
    return where.seconds / where.step * (where.steps - where.step)


def between(low: float, high: float) -> str:
    """One number, or two where they differ."""
    return f"{high:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def table(sets: dict[str, SideBySide]) -> list[str]:
    """Both forms on each set, a row a set and form."""
    lines = [f"{'set':<12}{'form':<15}{'top-1 %':>9}{'top-5 %':>9}{'images':>9}"]
    for name, found in sets.items():
        for form, accuracy in (("training form", found.training_form), ("fused", found.fused)):
            lines.append(f"{name:<12}{form:<15}{accuracy_cells(accuracy)}")
        lines.append(
            f"{'':<12}another class in {found.differing} of {found.fused.images} images; logits differ by "
            f"{found.logit_difference:.1e} of the largest at most"
        )
    return lines


def accuracy_cells(accuracy: Accuracy) -> str:
    """Top-1, top-5 and images, in columns."""
    top5 = "-" if accuracy.top5 is None else f"{accuracy.top5:.2f}"
    return f"{accuracy.top1:>9.2f}{top5:>9}{accuracy.images:>9}"
