"""Trials of a storage as the frame of a :class:`Record`: what each says, and what each judged itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    import pandas as pd

_TEXT = ("state", "digest", "candidate", "description", "gate", "reason")
_WHOLE = (
    *("number", "depth", "params", "macs", "activation_bytes", "weight_bytes", "traffic_bytes", "kernels"),
    *("rung", "duplicate_of", "continues", "recovers"),
)
_NUMBERS = (
    *("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj", "val_top1"),
    *("epochs", "epochs_spent", "seconds", "finished_at"),
)
_FLAGS = ("over_budget", "interrupted")
_OBJECTS = ("architecture", "anneal", "latency", "training")
_VALUES = ("val_top1", "latency_ms", "energy_mj")
"""What the values of a complete trial are, in order."""

_TOO_SLOW = ("predicted", "budget")
"""Gates that turn away what is over the latency budget."""


def number(value: object) -> float | None:
    """A stored number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rungs(attributes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is known of a trial's candidate at each rung, with a ``rung`` and ``val_top1`` each."""
    found = attributes.get("rungs")
    entries = found if isinstance(found, list | tuple) else []
    return [entry for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("rung"), int)]


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    row = {name: attributes.get(name) for name in (*_TEXT, *_WHOLE, *_NUMBERS, *_FLAGS, *_OBJECTS)}
    row |= {"number": trial.number, "state": trial.state.name, "rungs": _rungs(attributes)}
    if row["state"] == "COMPLETE":
        for name, value in zip(_VALUES, trial.values or (), strict=False):
            row[name] = value if row[name] is None else row[name]
    for name in _NUMBERS:
        row[name] = number(row[name])
    for name in _OBJECTS:
        row[name] = row[name] if isinstance(row[name], Mapping) else None
    _tell_gate(row)
    # A trial that went wrong says why; one that says nothing was at work when its run ended.
    row["interrupted"] = row["state"] == "FAIL" and (bool(row["interrupted"]) or row["reason"] is None)
    if row["state"] == "COMPLETE" and not row["rungs"] and row["val_top1"] is not None:
        # Before there were rungs, a trial was trained once, in full.
        row["rungs"] = [{"rung": 0, "val_top1": row["val_top1"], "epochs_spent": row["epochs"]}]
    row["rung"] = max((entry["rung"] for entry in row["rungs"] or ()), default=None)
    return row


def _tell_gate(row: dict[str, Any]) -> None:
    """Gate and budget, each from the other: studies store the one or, before there were gates, the other."""
    if row["gate"] in _TOO_SLOW:
        row["over_budget"] = True
    elif row["state"] == "PRUNED" and row["gate"] is None and row["over_budget"] is True:
        row["gate"] = "budget"


def _keep_own_rungs(rows: list[dict[str, Any]]) -> None:
    """Leave each trial the rungs that it judged itself.

    One that goes on from another, or has the place of another, holds the rungs of that one too; a repetition judged
    none.
    """
    known: dict[str, set[int]] = {}
    for row in rows:
        seen = known.setdefault(row["candidate"], set()) if row["candidate"] is not None else set()
        handed_on = row["continues"] is not None or row["recovers"] is not None
        if row["duplicate_of"] is not None:
            row["rungs"] = []
        elif handed_on:
            row["rungs"] = [entry for entry in row["rungs"] if entry["rung"] not in seen]
        seen.update(entry["rung"] for entry in row["rungs"])
        epochs = [spent for entry in row["rungs"] if (spent := number(entry.get("epochs_spent"))) is not None]
        row["epochs_spent"] = sum(epochs) if epochs else None


def frame_of(trials: list[optuna.trial.FrozenTrial]) -> pd.DataFrame:
    """Trials as the frame of a :class:`Record`: one row a trial, by number."""
    import pandas as pd

    rows = sorted((_row(trial) for trial in trials), key=lambda row: row["number"])
    _keep_own_rungs(rows)
    columns: dict[str, pd.Series[Any]] = {}
    for names, dtype in ((_TEXT, "string"), (_WHOLE, "Int64"), (_NUMBERS, "float64"), (_FLAGS, "boolean")):
        columns |= {name: pd.Series([row[name] for row in rows], dtype=dtype) for name in names}
    columns |= {name: pd.Series([row[name] for row in rows], dtype="object") for name in (*_OBJECTS, "rungs")}
    return pd.DataFrame(columns)
