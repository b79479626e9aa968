"""Trials that a run left behind when it ended: what was known is kept, what was not is done again, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from vnas.search.engine.ledger import RECOVERS, Ledger, was_left
from vnas.search.engine.rules import Rules


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was put right.

    Attributes:
        requeued: draws that are in the queue again.
        completed: trials that were ended after their last answer, and are complete with it.
        stopped: trials that were judged at a rung, and stay so.
    """

    requeued: int = 0
    completed: int = 0
    stopped: int = 0


def recover(ledger: Ledger, rules: Rules, rungs: int) -> Recovered:
    """Give every trial that was left another in its place, if it has none.

    Args:
        ledger: of the study.
        rules: of the study.
        rungs: how many there are.
    """
    trials = ledger.trials()
    replaced = {trial.user_attrs[RECOVERS] for trial in trials if RECOVERS in trial.user_attrs}
    counts: Counter[TrialState] = Counter()
    for trial in trials:
        attributes = trial.user_attrs
        judged = len(attributes.get("rungs", ()))
        state = TrialState.COMPLETE if judged == rungs else TrialState.PRUNED if judged else TrialState.WAITING
        if trial.state == TrialState.WAITING and judged:  # a driver that put it there ended before it went on
            if RECOVERS in attributes:
                values, limits = _known(attributes, rules, judged, rungs)
                counts[state] += ledger.conclude(trial.number, attributes[RECOVERS], state, values, limits)
            else:
                ledger.withdraw(trial.number, "its driver ended before it began")
            continue
        if not was_left(trial) or trial.number in replaced or not trial.params or "withdrawn" in attributes:
            continue
        if "continues" in attributes and judged < rungs:
            continue  # it is known to be stopped where it was, and may be sent on again
        stopped = {"stopped": judged - 1} if state == TrialState.PRUNED else {}
        values, limits = _known(attributes, rules, judged, rungs)
        counts[state] += ledger.replace(trial, state, values=values, add=stopped, constraints=limits) is not None
    return Recovered(counts[TrialState.WAITING], counts[TrialState.COMPLETE], counts[TrialState.PRUNED])


def _known(
    attributes: Mapping[str, Any], rules: Rules, judged: int, rungs: int
) -> tuple[Sequence[float] | None, Mapping[str, float] | None]:
    """Values of a complete trial, and constraints of one that was judged."""
    values = [attributes[name] for name in ("val_top1", *rules.objectives)] if judged == rungs else None
    return values, rules.constraints(attributes) if judged else None
