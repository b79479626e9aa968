"""An executor whose clock jumps from one event to the next.

2 slots         0         10        20        30 simulated seconds
slot 1          [   A, 20 s        ][ C ]
slot 2          [B, 8 s][      D, 22 s       ]
wait() gives            B           A    C    D
"""

from __future__ import annotations

import heapq
import itertools

from vnas.errors import VnasError
from vnas.search.engine.protocol import Answer, Attributes, Evaluator, Event, Failure, Job


class SimulatedExecutor:
    """Does each job as it is submitted and gives its answer when its ``seconds`` have passed on the clock.

    Args:
        evaluator: does the work; what it raises that vnas did not is not caught.
        slots: jobs that may be under way at once.

    Raises:
        ValueError: no slots.
    """

    def __init__(self, evaluator: Evaluator, slots: int = 1) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}; it must be at least 1")
        self._evaluator = evaluator
        self._slots = slots
        self._now = 0.0
        self._under_way: list[tuple[float, int, Event]] = []  # (when it ends, number of the submission, event)
        self._submissions = itertools.count()

    @property
    def slots(self) -> int:
        """Jobs that may be under way at once."""
        return self._slots

    def submit(self, job: Job) -> None:
        """Begin a job: its answer comes after its ``seconds``; one without them, and a failure, at once.

        Raises:
            RuntimeError: every slot is taken.
        """
        if len(self._under_way) >= self._slots:
            raise RuntimeError(f"all {self._slots} slots are taken; wait for an event before the next job")
        event: Event
        try:
            attributes = self._attributes(job)
        except VnasError as error:
            event, seconds = Failure(job, str(error), "candidate"), 0.0
        else:
            event, seconds = Answer(job, attributes), float(attributes.get("seconds", 0.0))
        heapq.heappush(self._under_way, (self._now + seconds, next(self._submissions), event))

    def _attributes(self, job: Job) -> Attributes:
        if job.kind == "measure":
            return self._evaluator.measure(job.subject)
        return self._evaluator.train(job.subject, job.rung, lambda share: None)

    def wait(self, seconds: float) -> Event | None:
        """The next event, the clock moved to its moment; None where nothing is under way.

        Args:
            seconds: of no account, since the wait takes none: an event further off is given too.
        """
        if not self._under_way:
            return None
        self._now, _, event = heapq.heappop(self._under_way)
        return event

    def clock(self) -> float:
        """Simulated seconds since the start."""
        return self._now

    def close(self) -> None:
        """Drop what is under way."""
        self._under_way.clear()
