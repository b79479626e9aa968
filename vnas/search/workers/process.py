"""What runs in a worker process: an evaluator is built once, then asked for one job after another.

The process leads a process group of its own. So Ctrl-C in the terminal does not reach it, and whatever it started
(a loader's workers, a compiler) ends with it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess

from vnas.errors import VnasError
from vnas.search.engine.protocol import Evaluator, Job, perform
from vnas.search.workers.channel import Advanced, Answered, Begun, Failed, Message, Ready, Refused, WorkerEnd

PROGRESS_SECONDS = 0.2
"""Between two reports of progress, at least."""

_MEMORY_RAN_OUT = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


def serve(connection: socket.socket, factory: Callable[[], Evaluator]) -> None:
    """Build the evaluator and do jobs until the driver has no more. Ends the process if the driver is gone.

    Args:
        connection: the worker's end of a pair of sockets; closed at the end.
        factory: of the evaluator.
    """
    _stand_alone()
    line = WorkerEnd(connection, _leave)
    try:
        evaluator = _built(factory, line)
        while evaluator is not None and (job := line.receive()) is not None:
            line.send(Begun())
            line.send(_done(evaluator, job, line))
    finally:
        line.close()


def _stand_alone() -> None:
    """Ctrl-C is the driver's to act on; SIGTERM ends the process at once; so does the end of the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    driver = multiprocessing.parent_process()
    if driver is not None:
        threading.Thread(target=_follow, args=(driver,), name="driver watch", daemon=True).start()


def _follow(driver: BaseProcess) -> None:
    driver.join()
    _leave()


def _leave() -> None:
    """End this process and all of its group, in the middle of whatever it does and without a word."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _built(factory: Callable[[], Evaluator], line: WorkerEnd) -> Evaluator | None:
    """The evaluator, or None where there is none; the driver has been told."""
    try:
        evaluator = factory()
    except VnasError as error:
        line.send(Refused(_portable(error)))
        return None
    except Exception as error:  # noqa: BLE001  the driver raises it in words
        line.send(Refused(VnasError(_in_words(error)), "".join(traceback.format_exception(error))))
        return None
    line.send(Ready())
    return evaluator


def _portable(error: VnasError) -> VnasError:
    """An error that the driver can read: one defined elsewhere may be unknown there."""
    if type(error).__module__ == VnasError.__module__:
        return error
    plain = VnasError(str(error))
    plain.exit_code = error.exit_code
    return plain


def _done(evaluator: Evaluator, job: Job, line: WorkerEnd) -> Message:
    """What became of a job."""
    progress = _Progress(line)
    try:
        return Answered(json.loads(json.dumps(perform(evaluator, job, progress))))
    except VnasError as error:
        return Failed(str(error), "candidate")
    except Exception as error:  # noqa: BLE001  one candidate's error is not the end of the study
        return _failed(error)
    finally:
        progress.end()


def _failed(error: Exception) -> Failed:
    if _memory_ran_out(error):
        return Failed(f"out of memory: {error}".removesuffix(": "), "candidate")
    written = "".join(traceback.format_exception(error))
    return Failed(_in_words(error), "unexpected", written, spent=_is_a(error, "AcceleratorError"))


def _memory_ran_out(error: Exception) -> bool:
    """Whether it says so: by its class, or as torch and CUDA's libraries do in a plain RuntimeError."""
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_RAN_OUT)


def _is_a(error: Exception, name: str) -> bool:
    """Whether one of its classes has this name; torch's are known so without importing torch."""
    return any(one.__name__ == name for one in type(error).__mro__)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class _Progress:
    """Tells the driver of the share that is done, and not too often; for one job."""

    def __init__(self, line: WorkerEnd) -> None:
        self._line = line
        self._next = 0.0
        self._ended = False
        self._mutex = threading.Lock()

    def __call__(self, share: float) -> None:
        with self._mutex:
            now = time.monotonic()
            if self._ended or now < self._next:
                return
            self._next = now + PROGRESS_SECONDS
            self._line.send(Advanced(float(share)))

    def end(self) -> None:
        """From now on a thread that goes on is not heard: the driver would take it for the next job."""
        with self._mutex:
            self._ended = True
