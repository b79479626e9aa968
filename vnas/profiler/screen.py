"""Two streams that a person looks at: lines that stay, and on a terminal one line that is written over."""

from __future__ import annotations

import sys
from typing import TextIO

CLEAR = "\r\x1b[K"
"""Back to the start of the line, and what is on it away."""


class Screen:
    """Lines on standard output, and on a terminal one line of progress on standard error.

    Args:
        out: takes the results.
        err: takes the line of progress, errors, and what keeps the work from going on.

    Attributes:
        watched: whether ``err`` is a terminal.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self.watched = self._err.isatty()
        self._progressing = False

    def say(self, *lines: str) -> None:
        """Results."""
        self._clear()
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()

    def complain(self, line: str) -> None:
        """An error, or what keeps the work from going on."""
        self._clear()
        self._err.write(f"{line}\n")
        self._err.flush()

    def overwrite(self, line: str) -> None:
        """Show a line of progress in the place of the last one."""
        self._err.write(f"{CLEAR}{line}\r")
        self._err.flush()
        self._progressing = True

    def _clear(self) -> None:
        if self._progressing:
            self._err.write(CLEAR)
            self._err.flush()
            self._progressing = False


def duration(seconds: float) -> str:
    """A time a person reads at a glance: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
