"""Ctrl-C and SIGTERM as KeyboardInterrupt, but never in the middle of a step that belongs together.

A trial that was told is told, and announced by nobody twice: telling, asking and taking back run inside
:func:`protected`; a signal that arrives there is raised when the section ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    pid = 0
    depth = 0
    pending = False


def _handle(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.pid:
        # A loader's worker, forked with this handler: Ctrl-C is its parent's to act on, SIGTERM ends it. Its threads'
        # complaints of a parent that has gone would only bury the parent's last words.
        sys.excepthook = lambda *error: None
        if signum == signal.SIGTERM:
            os._exit(128 + signum)
    elif _State.depth:
        _State.pending = True
    else:
        raise KeyboardInterrupt


@contextmanager
def installed() -> Iterator[None]:
    """Handle the signals here; the handlers of before come back at the end. Outside the main thread, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.pid = os.getpid()
    before = {signum: signal.signal(signum, _handle) for signum in _SIGNALS}
    try:
        yield
    finally:
        _State.pending = False
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def protected() -> Iterator[None]:
    """A section that is finished before a signal counts; sections may be nested.

    Raises:
        KeyboardInterrupt: at the end, where a signal arrived within.
    """
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.pending and not _State.depth:
            _State.pending = False
            raise KeyboardInterrupt
