"""Jobs done in the driver's own process, one after the other: for tests, and where no process can be started."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable

from vnas.errors import UsageError, VnasError
from vnas.search.engine.protocol import Answer, Evaluator, Event, Failure, Job, perform


class InlineExecutor:
    """Does a job when its event is waited for.

    Args:
        evaluator: that answers.
        advanced: told the trial and the share that is done, while a job goes on.
    """

    slots = 1

    def __init__(self, evaluator: Evaluator, advanced: Callable[[int, float], None]) -> None:
        self._evaluator, self._advanced = evaluator, advanced
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Put a job down."""
        self._jobs.append(job)

    def wait(self, seconds: float) -> Event | None:
        """Do the first job, however long it takes; None where there is none."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        try:
            return Answer(job, perform(self._evaluator, job, lambda done: self._advanced(job.trial, done)))
        except UsageError:
            raise  # the same for every candidate
        except VnasError as error:
            return Failure(job, str(error), "candidate")
        except Exception as error:  # noqa: BLE001  what a worker's process would be spared
            return Failure(job, f"{type(error).__name__}: {error}", "unexpected", traceback.format_exc())

    def clock(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def close(self) -> None:
        """Nothing is left to end."""
