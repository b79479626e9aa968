"""What each choice of the recipe for short budgets is worth: the recipe with one of them made otherwise.

    python -m benchmarks.recipe_choices --data ../shared/data/cifar10 --jobs 2
    python -m benchmarks.recipe_choices --data ../shared/data/cifar10 --images 4500 --seeds 1 --out rough.md

Nets: four drawn from search_spaces/cifar.toml, each with the lambda schedule that was drawn with it, from the narrowest
to the widest; none of them is one of short_budget.py's. Every run trains on --images images by [training] of
studies/cifar10.toml, changed as the table says, and is judged as the fused net on the validation set, since this is
where choices are made.

The momentum of batch norms is not among them: their statistics are estimated anew at lambda = 1 before a net is judged,
so that what was kept of them during training plays no part.

Each finished run is a line in --answers; the same command goes on with what is missing, and with more --seeds it adds
runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_command import follow, make_parser

if TYPE_CHECKING:
    from benchmarks.rung_records import Outcome, Score
    from benchmarks.training_runs import Job
    from vnas.config import StudyConfig
    from vnas.evaluate import Candidate
    from vnas.training import Data

RESULTS = Path(__file__).parent / "results"
IMAGES = 12_800
RECIPE = "the recipe"
NETS_SEED = 1
NETS = 4
MAX_MMACS = 15.0
"""Largest training form, million multiply-accumulates an image."""


def changes(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """What is made otherwise, by its name in the table."""
    training = study.training
    rates = {"lr": training.lr, "adamw_lr": training.adamw_lr}
    smoothing = training.label_smoothing
    return {
        RECIPE: {},
        'init = "default"': {"init": "default"},
        'optimizer = "adamw", lr = 0.003': {"optimizer": "adamw", "lr": 3e-3},
        'init = "default", optimizer = "adamw", lr = 0.003': {"init": "default", "optimizer": "adamw", "lr": 3e-3},
        "both rates halved": {name: rate / 2 for name, rate in rates.items()},
        "both rates doubled": {name: 2 * rate for name, rate in rates.items()},
        'lr_shape = "cosine"': {"lr_shape": "cosine"},
        "label_smoothing = 0": {"label_smoothing": 0.0},
        f"label_smoothing = {2 * smoothing:g}": {"label_smoothing": 2 * smoothing},
        "ema_decay = 0.95": {"ema_decay": 0.95},
        "merge = true": {"merge": True},
        f"batch_size = {2 * training.batch_size}": {"batch_size": 2 * training.batch_size},
        "crop_padding = 0": {"crop_padding": 0},
    }


def nets(study: StudyConfig, data: Data) -> dict[str, Candidate]:
    """Candidates by description, from the one whose widest stage is the narrowest on."""
    from benchmarks.rung_fidelity import sample

    drawn, _ = sample(study, data, NETS, NETS_SEED, MAX_MMACS)
    drawn.sort(key=lambda candidate: max(stage.width for stage in candidate.architecture.stages))
    return {candidate.architecture.describe(): candidate for candidate in drawn}


def jobs(study: StudyConfig, data: Data, images: int, seeds: int) -> list[Job]:
    """Every run, seed by seed, so that one that is cut short has whole tables."""
    from benchmarks.training_runs import Job

    found = []
    for seed in range(seeds):
        for name, candidate in nets(study, data).items():
            for arm, change in changes(study).items():
                training = study.training.model_copy(update={"anneal": candidate.anneal, **change})
                found.append(Job(name, arm, candidate.architecture, training, images, seed, split="validation"))
    return found


def run(options: argparse.Namespace) -> list[str]:
    """Do the runs that are missing."""
    from benchmarks.training_runs import opened, perform_all, settings
    from vnas.config import load_study

    study = load_study("cifar10", [f"data.source={options.data}"])
    data = opened(study.data)
    wanted = jobs(study, data, options.images, options.seeds)
    outcomes = perform_all(wanted, study.data, options.answers, settings(wanted, data), options.jobs)
    return report(wanted, outcomes, data.counts["train"])


def report(wanted: Sequence[Job], outcomes: Mapping[tuple[str, str, int], Outcome], per_epoch: int) -> list[str]:
    """The table, what its columns are, and what was left out."""
    from benchmarks.training_runs import over_nets

    scores = {key: outcome.scores[0] for key, outcome in outcomes.items() if outcome.error is None}
    names, seeds = (list(dict.fromkeys(getattr(job, what) for job in wanted)) for what in ("net", "seed"))

    def comparable(net: str, arm: str, seed: int) -> bool:
        return (net, arm, seed) in scores and (net, RECIPE, seed) in scores

    rows = []
    for arm in dict.fromkeys(job.arm for job in wanted):
        both = {
            net: [(scores[net, arm, seed], scores[net, RECIPE, seed]) for seed in seeds if comparable(net, arm, seed)]
            for net in names
        }
        pairs = [found for found in both.values() if found]
        if not pairs:
            continue
        gains = [[ours.value - theirs.value for ours, theirs in net] for net in pairs]
        spent = [sum(pair[side].seconds for net in pairs for pair in net) for side in (0, 1)]
        top1 = over_nets([[ours.value for ours, _ in net] for net in pairs]).mean
        cells = [
            f"`{arm}`" if "=" in arm else arm,
            f"{top1:.1f}",
            "" if arm == RECIPE else over_nets(gains).text(sign="+"),
            "" if arm == RECIPE else f"{spent[0] / spent[1]:.2f}",
            *("" if arm == RECIPE or not net else f"{mean_gain(net):+.1f}" for net in both.values()),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    failed = [f"- Left out: {net}, {arm}, seed {s}: {o.error}" for (net, arm, s), o in outcomes.items() if o.error]
    images = wanted[0].images
    return [
        "# What each choice of the recipe for short budgets is worth",
        "",
        f"Each run: {images:,} images of CIFAR-10 ({images / per_epoch:.2g} epochs) by the recipe of "
        "studies/cifar10.toml with what the row says made otherwise; top-1 of the fused net on the validation set in "
        f"percent, {len(names)} nets, {len(seeds)} seeds. In brackets: 95 % by a bootstrap over nets and seeds; "
        "differences are paired. A choice whose interval holds 0 is not shown to matter.",
        "",
        "| made otherwise | top-1 | less the recipe | time | "
        + " | ".join(f"net {i + 1}" for i in range(len(names)))
        + " |",
        "|---" * (4 + len(names)) + "|",
        *rows,
        "",
        *(f"- Net {number}: {name}" for number, name in enumerate(names, start=1)),
        *failed,
    ]


def mean_gain(pairs: Sequence[tuple[Score, Score]]) -> float:
    """Mean difference between a changed recipe and the recipe."""
    return statistics.fmean(ours.value - theirs.value for ours, theirs in pairs)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, and write the table."""
    parser = make_parser(__doc__ or "", RESULTS / "recipe_choices.md", IMAGES)
    return follow(parser, argv, run, "benchmarks.recipe_choices")


if __name__ == "__main__":
    sys.exit(main())
