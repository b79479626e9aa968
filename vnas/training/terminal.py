"""What a person sees of a training run: lines on standard output, and on a terminal one line that is written over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from vnas.training.judging import Accuracy, SideBySide
from vnas.training.result import Progress

CLEAR = "\r\x1b[K"
"""Back to the start of the line, and what is on it away."""

PAUSE_SECONDS = 0.1
"""Between two states of the progress line."""


class Terminal:
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
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._quiet = quiet
        self._clock = clock
        self._watched = self._err.isatty() and not quiet
        self._last = float("-inf")
        self._progressing = False

    def say(self, *lines: str) -> None:
        """Results."""
        if self._quiet:
            return
        self._clear()
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()

    def complain(self, line: str) -> None:
        """An error."""
        self._clear()
        self._err.write(f"{line}\n")
        self._err.flush()

    def progress(self, where: Progress, images_per_second: float) -> None:
        """The progress line, some times a second at most, and only where somebody watches."""
        now = self._clock()
        if not self._watched or (now - self._last < PAUSE_SECONDS and where.step < where.steps):
            return
        self._last = now
        self._err.write(f"{CLEAR}{progress_text(where, images_per_second)}\r")
        self._err.flush()
        self._progressing = True

    def _clear(self) -> None:
        if self._progressing:
            self._err.write(CLEAR)
            self._err.flush()
            self._progressing = False


def progress_text(where: Progress, images_per_second: float) -> str:
    """Epoch, step, loss, lambda, learning rate, speed, and the time left at the pace so far."""
    return (
        f"epoch {where.epoch + 1}/{where.epochs}  step {where.step}/{where.steps}  loss {where.loss:.4f}  "
        f"lambda {between(where.slope_min, where.slope_max)}  lr {where.lr:.2e}  {images_per_second:,.0f} images/s  "
        f"{duration(seconds_left(where))} left"
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


def duration(seconds: float) -> str:
    """A time a person reads at a glance: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


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
