"""A study as ``vnas.search`` stores it, made up: latencies and accuracies follow a formula that is known here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from vnas.config import StudyConfig, study_from_toml

TOML = """
name = "{name}"
trials = 24
seed = 3
[space]
name = "tiny"
image_size = 32
[space.stem]
width = [16, 24, 32]
[space.stages]
count = [1, 2, 3]
width = [32, 48, 64]
[latency]
target_relative = 0.02
{budget}
"""

ENVIRONMENT = {
    "device_kind": "Synthetic CPU, 2 threads",
    "device_type": "cpu",
    "cpu_model": "Synthetic CPU",
    "threads": 2,
    "torch": "2.14.1",
    "python": "3.11.9",
    "os": "Linux 6.1",
    "matmul_precision": "highest",
    "cudnn_benchmark": False,
}
DATA = {
    "source": "digits",
    "num_classes": 3,
    "class_names": ["zero", "one", "two"],
    "counts": {"train": 1300, "validation": 227, "test": 270},
    "splits": {
        "train": "what is left of the training set",
        "validation": "cut from the training set (15 %, stratified, seed 0)",
        "test": "cut from the training set (15 %, stratified, seed 0)",
    },
    "fingerprint": "abc123",
    "pipeline": "resident",
}
STARTED = 1_750_000_000.0


def config(name: str = "synthetic", budget_ms: float | None = None, *settings: str) -> StudyConfig:
    text = TOML.format(name=name, budget="" if budget_ms is None else f"budget_ms = {budget_ms}")
    return study_from_toml(text, settings)


def architecture(stem: int, widths: list[int], series: int = 3) -> dict[str, Any]:
    stages = [{"width": w, "stride": 2 if i < 2 else 1, "series": series, "residual": "none", "pool_to": None}
              for i, w in enumerate(widths)]  # fmt: skip
    return {
        "schema": 1,
        "stem": {"width": stem, "kernel": 4, "stride": 4, "padding": 0, "series": series},
        "stages": stages,
        "activation": "relu",
        "series_shift": False,
        "projection": "none",
        "in_chans": 1,
        "image_size": 32,
        "num_classes": 10,
        "dropout": 0.0,
    }


def measurement(median: float, half: float, *, noise_ok: bool = True, stop: str = "target met") -> dict[str, Any]:
    return {
        "schema": 1,
        "median_ms": median,
        "interval_ms": [median - half, median + half],
        "interval_level": 0.9511,
        "samples_ms": [median] * 60,
        "stop_reason": stop,
        "noise_ok": noise_ok,
        "target_relative": 0.02,
        "runtime": "eager",
        "timer": "perf_counter_ns",
        "precision": "float32",
        "layout": "contiguous",
        "input_shapes": [[1, 1, 32, 32]],
        "contention": "unknown",
        "throttled": None,
        "processes": 1,
        "notes": [],
        "environment": ENVIRONMENT,
    }


def attributes(
    index: int,
    *,
    stem: int,
    widths: list[int],
    epochs: int = 6,
    noise_ok: bool = True,
    stop: str = "target met",
) -> dict[str, Any]:
    """User attributes of a trained trial; latency is 0.1 ms a layer plus 1e-8 ms a MAC."""
    depth = len(widths) + 2
    channels = [stem, *widths]
    macs = 16 * stem * 64 + sum(a * b * 16 for a, b in zip(channels, widths, strict=False)) + channels[-1] * 10
    params = 16 * stem + sum(a * b for a, b in zip(channels, widths, strict=False)) + 49 * sum(channels)
    latency = 0.1 * depth + 1e-7 * macs
    accuracy = 99.0 - 60.0 * math.exp(-math.log1p(macs / 2e4) - 0.4 * depth)
    digest = f"{index:012x}"
    ends = np.linspace(0.0, 1.0, epochs)
    return {
        "digest": digest,
        "candidate": f"c{index:011x}",
        "architecture": architecture(stem, widths),
        "description": f"4x4/4-{stem} · " + " · ".join(f"{w}↓2" for w in widths) + "  n=3",
        "anneal": {"shape": "linear", "start": 0.0, "end": 1 / 3, "steps": 1, "stagger": 0.0},
        "depth": depth,
        "params": params,
        "macs": macs,
        "activation_bytes": 4 * 64 * sum(channels),
        "weight_bytes": 4 * params,
        "traffic_bytes": 4 * params + 2 * 4 * 64 * sum(channels),
        "kernels": 2 * depth,
        "latency_ms": latency,
        "latency_low_ms": latency * 0.99,
        "latency_high_ms": latency * 1.01,
        "latency": measurement(latency, 0.01 * latency, noise_ok=noise_ok, stop=stop),
        "energy_mj": None,
        "val_top1": accuracy,
        "epochs": epochs,
        "seconds": 4.0 + depth,
        "training": {
            "curve": [
                {
                    "epoch": epoch,
                    "loss": 2.3 * math.exp(-2.0 * t) * (1 + 0.02 * (index % 5)),
                    "lr": 1e-3,
                    "slope_min": min(1.0, 2.5 * t),
                    "slope_max": min(1.0, 3.0 * t),
                }
                for epoch, t in enumerate(ends)
            ]
        },
        "finished_at": STARTED + 10.0 * index,
    }


class Writer:
    """Writes a study trial by trial."""

    def __init__(self, database: Path, study: StudyConfig | None = None, name: str | None = None) -> None:
        self.config = study or config()
        self.url = f"sqlite:///{database}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = optuna.storages.RDBStorage(self.url)
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=name or self.config.name,
            directions=["maximize", "minimize", *["minimize"] * self.config.energy],
        )
        for key, value in {
            "study": self.config.to_toml(),
            "environment": ENVIRONMENT,
            "device_kind": ENVIRONMENT["device_kind"],
            "data": DATA,
            "started_at": STARTED,
            "vnas_version": "0.1.0",
        }.items():
            self.study.set_user_attr(key, value)

    def trial(self, values: dict[str, Any], state: TrialState = TrialState.COMPLETE) -> int:
        names = ("val_top1", "latency_ms", *["energy_mj"] * self.config.energy)
        frozen = optuna.trial.create_trial(
            state=state,
            values=[values[name] for name in names] if state == TrialState.COMPLETE else None,
            user_attrs=values,
        )
        self.study.add_trial(frozen)
        return len(self.study.trials) - 1

    def retrain(self, values: dict[str, Any], trial: int, tops: list[float], *, latency_factor: float = 1.02) -> None:
        digest = values["digest"]
        for seed, top in enumerate(tops):
            self.study.set_user_attr(
                f"front/{digest}/{seed}",
                {
                    "digest": digest,
                    "candidate": values["candidate"],
                    "trial": trial,
                    "seed": seed,
                    "val_top1": top + 1.0,
                    "test_top1": top,
                    "epochs": 30,
                    "seconds": 20.0,
                    "chosen": top == max(tops),
                },
            )
        median = values["latency_ms"] * latency_factor
        self.study.set_user_attr(f"front/{digest}/latency", measurement(median, 0.01 * median))

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()


def full_study(database: Path, *, retrained: bool = True, name: str = "synthetic") -> Writer:
    """24 trials: trained ones, duplicates, two over the budget, a failed and an interrupted one; a front of some."""
    writer = Writer(database, config(name, budget_ms=2.0))
    random = np.random.default_rng(7)
    known: list[tuple[int, dict[str, Any]]] = []
    for index in range(24):
        stem = int(random.choice([16, 24, 32]))
        widths = [int(w) for w in random.choice([32, 48, 64, 96], size=int(random.integers(1, 6)))]
        values = attributes(index, stem=stem, widths=widths, noise_ok=index % 5 != 0,
                            stop="time limit" if index % 5 == 0 else "target met")  # fmt: skip
        noise = 1.0 + 0.05 * float(random.standard_normal())
        for key in ("latency_ms", "latency_low_ms", "latency_high_ms"):
            values[key] *= noise
        if index in (9, 17):
            number, repeated = known[0]
            writer.trial({**repeated, "duplicate_of": number, "seconds": 0.0})
        elif index in (11, 12):
            for key in ("val_top1", "epochs", "training"):
                del values[key]
            writer.trial({**values, "over_budget": True, "reason": f"{values['latency_ms']:.3f} ms is over the budget"},
                         TrialState.PRUNED)  # fmt: skip
        elif index == 14:
            writer.trial({"digest": values["digest"], "reason": "the loss became nan at step 3"}, TrialState.FAIL)
        elif index == 15:
            writer.trial({"digest": values["digest"], "reason": "interrupted", "interrupted": True}, TrialState.FAIL)
        else:
            known.append((writer.trial(values), values))
    if retrained:
        front = [
            (number, v) for number, v in known
            if not any(o["val_top1"] >= v["val_top1"] and o["latency_ms"] <= v["latency_ms"]
                       and (o["val_top1"], o["latency_ms"]) != (v["val_top1"], v["latency_ms"]) for _, o in known)
        ]  # fmt: skip
        for number, values in front:
            middle = values["val_top1"] - 1.0
            writer.retrain(values, number, [middle - 0.6, middle + 0.5, middle])
    writer.close()
    return writer


EPOCHS = (2.0, 6.0)
"""Of a candidate at each rung of :func:`rung_study`, of 8 in all."""


def judged_at(*accuracies: float) -> dict[str, Any]:
    """What the storage says of a candidate that has these accuracies at the rungs so far."""
    rungs = [
        {"rung": rung, "val_top1": top1, "epochs": sum(EPOCHS[: rung + 1]), "epochs_spent": EPOCHS[rung]}
        for rung, top1 in enumerate(accuracies)
    ]
    return {"rungs": rungs, "val_top1": accuracies[-1], "epochs": rungs[-1]["epochs"]}


def untrained(index: int, latency_ms: float | None, **more: Any) -> dict[str, Any]:
    """Attributes of a candidate that was not judged."""
    values = attributes(index, stem=16, widths=[32] * (1 + index % 4))
    for key in ("val_top1", "epochs", "training", "seconds"):
        del values[key]
    if latency_ms is None:
        for key in ("latency_ms", "latency_low_ms", "latency_high_ms", "latency"):
            del values[key]
    else:
        values |= {"latency_ms": latency_ms, "latency_low_ms": latency_ms * 0.99, "latency_high_ms": latency_ms * 1.01}
    return values | more


def rung_study(database: Path) -> Writer:
    """21 trials of 11 candidates, c0 to c10, under a budget of 2 ms and two rungs; a WAITING one has no candidate.

        c0   trained in full at once (trial 0)          c6   put off (6), later judged at the first rung (12)
        c1   stopped (1), later trained in full (11)    c7   interrupted (9), its place: stopped (10), then failed (16)
        c2   rejected: cost (2)                         c8   failed (13)
        c3   rejected: predicted (3)                    c9   interrupted when judged (14), its place (15), sent on and
        c4   rejected: budget (4), repeated (8)              interrupted (19), sent on again and running (20)
        c5   rejected: hopeless (5)                     c10  put off (17)

    Trial 7 repeats c0, 18 waits.
    """
    settings = ("training.epochs=8", "rungs.shares=[0.25, 1.0]", "constraints.params=50_000")
    writer = Writer(database, config("rungs", 2.0, *settings))
    pruned, failed = TrialState.PRUNED, TrialState.FAIL
    c0, c1, c6, c7 = (untrained(i, ms) for i, ms in ((0, 1.0), (1, 0.8), (6, 0.6), (7, 0.9)))
    c4, c9, c10 = untrained(4, 3.0), untrained(9, 1.2), untrained(10, 0.7)
    slow = {"gate": "budget", "reason": "latency 3 ms is over the budget of 2 ms"}
    put_off = {"gate": "promise", "reason": "it promises less than another candidate"}
    stopped: dict[str, Any] = {"stopped": 0}
    interrupted: dict[str, Any] = {"reason": "interrupted", "interrupted": True}
    writer.trial(c0 | judged_at(80.0, 90.0) | {"seconds": 40.0})
    writer.trial(c1 | judged_at(70.0) | stopped | {"seconds": 10.0}, pruned)
    writer.trial(untrained(2, None, gate="cost", reason="params 60,000 is over the limit of 50,000"), pruned)
    writer.trial(untrained(3, None, gate="predicted", reason="latency is predicted to be 2.5 ms at least"), pruned)
    writer.trial(c4 | slow, pruned)
    writer.trial(untrained(5, 1.5, gate="hopeless", reason="60.0 % at best with 1.5 ms"), pruned)
    writer.trial(c6 | put_off, pruned)
    writer.trial(c0 | judged_at(80.0, 90.0) | {"duplicate_of": 0, "seconds": 0.0})
    writer.trial(c4 | slow | {"duplicate_of": 4, "seconds": 0.0}, pruned)
    writer.trial(c7 | interrupted, failed)
    # At the first rung this one is better than all, and never at the last.
    writer.trial(c7 | judged_at(99.0) | stopped | {"recovers": 9, "seconds": 12.0}, pruned)
    writer.trial(c1 | judged_at(70.0, 85.0) | {"continues": 1, "seconds": 30.0})
    writer.trial(c6 | judged_at(60.0) | stopped | {"seconds": 14.0}, pruned)
    writer.trial(untrained(8, 1.1, reason="the loss became nan at step 3", seconds=2.0), failed)
    # Killed after it was judged: it says nothing of why it ended.
    writer.trial(c9 | judged_at(75.0), failed)
    writer.trial(c9 | judged_at(75.0) | stopped | {"recovers": 14}, pruned)
    writer.trial(c7 | judged_at(99.0) | {"continues": 10, "reason": "the loss became inf", "seconds": 3.0}, failed)
    writer.trial(c10 | put_off, pruned)
    writer.trial({}, TrialState.WAITING)
    writer.trial(c9 | judged_at(75.0) | interrupted | {"continues": 14}, failed)
    writer.trial(c9 | judged_at(75.0) | {"continues": 14, "seconds": 9.0}, TrialState.RUNNING)
    writer.retrain(c1, 1, [84.0, 86.0])
    writer.close()
    return writer
