"""Trials that a run left behind when it ended: what was known is kept, what was not is done again, once."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from vnas.search.engine.ledger import INTERRUPTED, RECOVERS, Ledger
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


def was_left(trial: FrozenTrial) -> bool:
    """Whether a failed trial went wrong because its run ended: it says so, or says nothing."""
    if trial.state != TrialState.FAIL:
        return False
    return bool(trial.user_attrs.get(INTERRUPTED)) or "reason" not in trial.user_attrs


def recover(ledger: Ledger, rules: Rules, rungs: int) -> Recovered:
    """Give every trial that was left another in its place, if it has none.

    Args:
        ledger: of the study.
        rules: of the study.
        rungs: how many there are.
    """
    trials = ledger.trials()
    replaced = {trial.user_attrs[RECOVERS] for trial in trials if RECOVERS in trial.user_attrs}
    requeued = completed = stopped = 0
    for trial in trials:
        if not was_left(trial) or trial.number in replaced or not trial.params:
            continue
        attributes = trial.user_attrs
        judged = len(attributes.get("rungs", ()))
        if "continues" in attributes and judged < rungs:
            continue  # it is known to be stopped where it was, and may be sent on again
        if judged == rungs:
            values = (attributes["val_top1"], *(attributes[name] for name in rules.objectives))
            done = ledger.replace(
                trial, TrialState.COMPLETE, values=values, constraints=rules.constraints(attributes)
            )
            completed += done is not None
        elif judged:
            done = ledger.replace(
                trial, TrialState.PRUNED, add={"stopped": judged - 1}, constraints=rules.constraints(attributes)
            )
            stopped += done is not None
        else:
            requeued += ledger.replace(trial, TrialState.WAITING) is not None
    return Recovered(requeued, completed, stopped)
