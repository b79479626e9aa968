"""What a finished run leaves: both forms judged side by side, their weights, the curve, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from vnas.nets import save_weights
from vnas.profiler.environment import capture_environment
from vnas.profiler.results import write_whole
from vnas.training.command.curve import Caption, draw
from vnas.training.command.logs import read_log
from vnas.training.command.plan import LOG, RESULT, Plan
from vnas.training.images.data import Data, Split
from vnas.training.judging import SideBySide, compare_forms
from vnas.training.result import TrainingResult

JUDGED: tuple[Split, ...] = ("validation", "test")
FUSED_WEIGHTS = "weights.safetensors"
TRAINING_WEIGHTS = "training_form.safetensors"


def write_outcome(
    out: Path, plan: Plan, data: Data, result: TrainingResult, seconds_watching: float, device: torch.device
) -> dict[Split, SideBySide]:
    """Judge both forms on the validation and the test set and write everything; ``result.json`` comes last.

    Args:
        out: the run's directory, with its log.
        plan: what was asked for.
        data: where the sets come from.
        result: what came of it, with its nets.
        seconds_watching: time that went into looks at the net on the way, since this process began.
        device: where the nets are.

    Returns:
        Both forms on each set.
    """
    fused, trained = result.fused, result.trained
    assert fused is not None
    assert trained is not None
    save_weights(fused, out / FUSED_WEIGHTS)
    save_weights(trained, out / TRAINING_WEIGHTS)
    loaders = {split: data.loader(split, plan.architecture.image_size, device=device) for split in JUDGED}
    sets = {split: compare_forms(trained, fused, loader, device) for split, loader in loaders.items()}
    rows = read_log(out / LOG)
    if rows:  # none where a finished run was gone on with and its log had been removed
        draw(rows, result.steps // result.epochs, caption(plan, sets, device), out / "curve")
    told = {
        **plan.to_dict(),
        "architecture": plan.architecture.to_dict(),
        "fingerprint": data.fingerprint,
        "splits": dict(data.splits),
        "evaluation": {split: asdict(found) for split, found in sets.items()},
        "training_run": result.to_dict(),
        "seconds_watching": seconds_watching,
        "environment": capture_environment(device).to_dict(),
    }
    write_whole(out / RESULT, (json.dumps(told, indent=2) + "\n").encode())
    return sets


def caption(plan: Plan, sets: Mapping[Split, SideBySide], device: torch.device) -> Caption:
    """What stands above and below the curve."""
    ends = ", ".join(f"{split} {found.fused.top1:.1f} %" for split, found in sets.items())
    average = plan.recipe.training.ema_decay is not None
    last = " Last points: the average of the weights; before: the weights themselves." if average else ""
    return Caption(
        f"{plan.net} on {plan.recipe.data.source}",
        f"Recipe {plan.recipe.name}, seed {plan.seed}, on {device}. Fused at the end: {ends}. "
        f"Shaded: lambda is 1, the two forms are one function.{last}",
    )
