"""A search space of 16,777,216 nets whose answers follow from a hash of their names, so that none is kept in memory."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vnas.search.engine.protocol import Attributes, Draw, Subject

NAMES = tuple(f"choice_{place}" for place in range(12))
OPTIONS = ("a", "b", "c", "d")
RUNGS = (12.0, 200.0)
NOISE_POINTS = (2.0, 0.5)
"""Half of the range of what two trainings of one net differ by, at each rung."""


class AnalyticProblem:
    """Draws of twelve choices among four; a net's costs are those of its choices."""

    choices: Mapping[str, Sequence[Any]] = dict.fromkeys(NAMES, OPTIONS)
    size = len(OPTIONS) ** len(NAMES)
    rungs: Sequence[float] = RUNGS
    latency_attributes: Collection[str] = ("latency_ms", "latency_low_ms", "latency_high_ms")

    def subject(self, draw: Draw) -> Subject:
        """The net of a draw: its choices in one word are its description."""
        word = "".join(draw[name] for name in NAMES)
        digest = hashlib.sha256(word.encode()).hexdigest()[:12]
        params = 1000 * (1 + sum(OPTIONS.index(letter) for letter in word))
        names = {"digest": digest, "candidate": digest, "description": word, "params": params}
        return Subject(digest, digest, names, {"params": float(params)})

    def absent(self, draw: Draw) -> Collection[str]:
        """None: every choice has its meaning."""
        return ()

    def latency_key(self, attributes: Mapping[str, Any]) -> str | None:
        """The digest."""
        return attributes.get("digest")


class AnalyticEvaluator:
    """Answers at once, or after a while.

    Args:
        seconds: that a training takes, in sleep.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def measure(self, subject: Subject) -> Attributes:
        """A sum over the choices, and a little that is the net's own."""
        word = subject.attributes["description"]
        own = 1.0 + 0.1 * uniform(f"latency {word}")
        latency_ms = own * (1.0 + sum(_ms(place, letter) for place, letter in enumerate(word)))
        return {"latency_ms": latency_ms, "latency_low_ms": latency_ms, "latency_high_ms": latency_ms}

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> Attributes:
        """More with every choice that costs time, less and less; neighbours act together, and chance does."""
        if self._seconds:
            time.sleep(self._seconds)
        word = subject.attributes["description"]
        worth = sum(_worth(place, word[place : place + 2]) for place in range(len(word)))
        top1 = (50.0, 80.0)[rung] * (1.0 - math.exp(-worth / 4.0))
        top1 += NOISE_POINTS[rung] * (2.0 * uniform(f"rung {rung} {word}") - 1.0)
        below = RUNGS[rung - 1] if rung else 0.0
        return {"val_top1": max(0.0, top1), "epochs": RUNGS[rung], "epochs_spent": RUNGS[rung] - below}


def uniform(text: str) -> float:
    """From 0 to 1, the same for the same text on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _ms(place: int, letter: str) -> float:
    return OPTIONS.index(letter) * (0.2 + 0.4 * uniform(f"latency {place}"))


def _worth(place: int, letters: str) -> float:
    alone = OPTIONS.index(letters[0]) * (0.1 + 0.3 * uniform(f"worth {place}"))
    return alone + 0.3 * uniform(f"worth {place} {letters}")
