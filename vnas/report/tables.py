"""``trials.csv`` and ``front.csv``: units in the names, absent values empty."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from vnas.report.analysis import Analysis

_TRIAL_COLUMNS = (
    *("number", "state", "digest", "candidate", "description"),
    *("depth", "params", "macs", "activation_bytes", "weight_bytes", "traffic_bytes", "kernels"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj"),
    *("val_top1", "rung", "epochs", "epochs_spent", "seconds"),
    *("on_front", "gate", "over_budget", "duplicate_of", "continues", "interrupted"),
)
_SCHEDULE = ("shape", "start", "end")

FRONT_COLUMNS = (
    *("net", "digest", "trial", "description", "depth", "params", "macs"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "search_latency_ms", "energy_mj"),
    *("val_top1", "test_top1", "test_top1_mean", "test_top1_low", "test_top1_high", "seeds", "epochs"),
    *("lambda_shape", "lambda_start", "lambda_end", "weights"),
)


def trials_table(analysis: Analysis) -> pd.DataFrame:
    """One row a trial.

    ``predicted_ms_<name>`` is out of sample: each half of the nets is predicted by the line fitted on the other.
    A repeated architecture has the prediction of its first measurement. ``rung``, ``val_top1`` and ``epochs`` are of
    the last rung that the candidate was judged at, ``epochs_spent`` is what this trial added to them.
    """
    trials = analysis.record.trials
    table = trials.assign(on_front=analysis.on_front)[list(_TRIAL_COLUMNS)].copy()
    for name in ("epochs", "epochs_spent"):
        table[name] = _whole_if_all_are(table[name])
    for key in _SCHEDULE:
        table[f"lambda_{key}"] = pd.Series(
            [value.get(key) if value is not None else None for value in trials["anneal"]],
            index=trials.index,
            dtype="string" if key == "shape" else "float64",
        )
    for name, judgement in analysis.judgements.items():
        by_digest = dict(zip(analysis.nets["digest"], judgement.out_of_sample_ms, strict=True))
        known = [by_digest.get(digest, np.nan) if pd.notna(digest) else np.nan for digest in trials["digest"]]
        table[f"predicted_ms_{name}"] = pd.Series(known, index=trials.index, dtype="float64")
    table["finished_at"] = trials["finished_at"]
    table["reason"] = trials["reason"]
    return table


def _whole_if_all_are(values: pd.Series[Any]) -> pd.Series[Any]:
    return values.astype("Int64") if (values.dropna() % 1.0 == 0.0).all() else values


def weights_path(digest: str) -> str:
    """Where a run directory keeps the fused weights of a net of the front."""
    return f"nets/{digest}/weights.safetensors"


def front_table(analysis: Analysis, saved: Collection[str] = ()) -> pd.DataFrame:
    """One row a net of the front, fastest first.

    Args:
        analysis: of the study.
        saved: digests whose weights are in the run directory.

    Returns:
        ``test_top1`` is that of the saved weights; mean and interval are over the seeds.
    """
    rows = []
    for net in analysis.front:
        anneal = net.anneal or {}
        rows.append(
            {
                "net": net.letter,
                "digest": net.digest,
                "trial": net.trial,
                "description": net.description,
                "depth": net.depth,
                "params": net.params,
                "macs": net.macs,
                "latency_ms": net.latency_ms.value,
                "latency_low_ms": net.latency_ms.low,
                "latency_high_ms": net.latency_ms.high,
                "search_latency_ms": net.search_latency_ms.value,
                "energy_mj": net.energy_mj,
                "val_top1": net.val_top1,
                "test_top1": net.saved.test_top1 if net.saved else None,
                "test_top1_mean": net.test_top1.value if net.test_top1 else None,
                "test_top1_low": net.test_top1.low if net.test_top1 else None,
                "test_top1_high": net.test_top1.high if net.test_top1 else None,
                "seeds": len(net.retrained),
                "epochs": net.retrained[0].epochs if net.retrained else None,
                **{f"lambda_{key}": anneal.get(key) for key in _SCHEDULE},
                "weights": weights_path(net.digest) if net.digest in saved else None,
            }
        )
    table = pd.DataFrame(rows, columns=list(FRONT_COLUMNS))
    return table.astype(dict.fromkeys(("trial", "depth", "params", "macs", "seeds", "epochs"), "Int64"))
