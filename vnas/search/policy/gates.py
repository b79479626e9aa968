"""Questions that a candidate must pass before it is trained, the cheapest first.

    duplicate    the study has an answer for it
    cost         it breaks a constraint that is known without measuring: params, macs
    predicted    its latency is predicted to be over the budget, even at the lower end of the prediction
    budget       its measured latency is over the budget
    hopeless     even an optimistic guess of its accuracy leaves it behind the front
    promise      now that it is measured, another candidate promises more; it is put off and may come again

Each gate is on or off in the study file and has a count of what it saved in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vnas.search.sampling.encoding import Floats
from vnas.search.sampling.surrogate import Guess

HOPELESS, PROMISE = "hopeless", "promise"
"""Names of the gates that turn away what was measured and might be trained; the sampler answers for the second."""


@dataclass(frozen=True)
class Known:
    """What is known of a candidate when it comes to a gate.

    Attributes:
        costs: numbers known without measuring.
        latency_ms: measured; None before.
        latency_guess_ms: predicted; None while there is no predictor.
        accuracy_guess: at the first rung, in percent, predicted; None while there is no predictor.
    """

    costs: Mapping[str, float]
    latency_ms: float | None = None
    latency_guess_ms: Guess | None = None
    accuracy_guess: Guess | None = None


class Gate(Protocol):
    """A question."""

    @property
    def name(self) -> str:
        """Of the gate, in the study file and in the report."""

    def reason(self, known: Known) -> str | None:
        """Why a candidate is turned away; None where it passes or the question cannot be answered yet."""


@dataclass(frozen=True)
class CostGate:
    """Turns away what breaks a constraint on a cost.

    Attributes:
        limits: greatest allowed, by name of the cost.
    """

    limits: Mapping[str, float]
    name: str = "cost"

    def reason(self, known: Known) -> str | None:
        """See :class:`Gate`."""
        for cost, limit in self.limits.items():
            if known.costs[cost] > limit:
                return f"{cost} {_counted(known.costs[cost])} is over the limit of {_counted(limit)}"
        return None


def _counted(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


@dataclass(frozen=True)
class PredictedLatencyGate:
    """Turns away what is surely too slow, before it is measured."""

    budget_ms: float
    name: str = "predicted"

    def reason(self, known: Known) -> str | None:
        """See :class:`Gate`."""
        guess = known.latency_guess_ms
        if known.latency_ms is not None or guess is None or guess.low <= self.budget_ms:
            return None
        return f"latency is predicted to be {guess.low:.4g} ms at least, over the budget of {self.budget_ms:g} ms"


@dataclass(frozen=True)
class BudgetGate:
    """Turns away what was measured to be too slow."""

    budget_ms: float
    name: str = "budget"

    def reason(self, known: Known) -> str | None:
        """See :class:`Gate`."""
        if known.latency_ms is None or known.latency_ms <= self.budget_ms:
            return None
        return f"latency {known.latency_ms:.4g} ms is over the budget of {self.budget_ms:g} ms"


@dataclass(frozen=True)
class HopelessGate:
    """Turns away what a net that is no slower would still beat if an optimistic guess of its accuracy came true.

    Attributes:
        latency_ms: (N,) of the nets that were judged at the first rung.
        accuracy: (N,) of them.
    """

    latency_ms: Floats
    accuracy: Floats
    name: str = HOPELESS

    def reason(self, known: Known) -> str | None:
        """See :class:`Gate`."""
        guess, latency = known.accuracy_guess, known.latency_ms
        if guess is None or latency is None:
            return None
        faster = self.accuracy[self.latency_ms <= latency]
        if len(faster) == 0 or guess.high > faster.max():
            return None
        best = float(np.max(faster))
        return f"{guess.high:.1f} % at best with {latency:.4g} ms, and a net no slower has {best:.1f} %"
