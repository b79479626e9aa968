"""What deep training and the series activation are worth on CIFAR-10: the paper's ablation, small.

    python -m benchmarks.technique_table --data ../shared/data/cifar10 --jobs 2
    python -m benchmarks.technique_table --data ../shared/data/cifar10 --images 4500 --out rough.md

One net of VanillaNet-6's shape, narrowed, its stem with stride 2 for images of 32 px, trained with the recipe of
studies/cifar10.toml on the same number of images in every arm:

    none      single convolutions from the first step on, plain activations (n = 0)
    deep      pairs whose lambda goes from 0 to 1 as the recipe says, plain activations
    series    single convolutions, series activations (n = 3)
    both      pairs, n from 1 to 4

A pair that is merged before its first step stands for the single convolution: it starts as the product of the pair's
fresh weights, which for identity-like ones is what a single convolution's would be. Where a map has fewer pixels than
the kernel is wide, the kernel stays as it is and sees the border's zeros, as in the paper.

Accuracy is the fused net's on the test set. Each finished run is a line in --answers; the same command goes on with
what is missing, and with more --seeds it adds runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.training_command import follow, make_parser

if TYPE_CHECKING:
    from benchmarks.rung_records import Outcome
    from benchmarks.training_runs import Job
    from vnas.config import TrainingConfig

RESULTS = Path(__file__).parent / "results"
IMAGES = 45_000
NET = "VanillaNet-6, narrowed"
SERIES = 3
"""The order n that stands for the series activation, as in the paper."""
ORDERS = range(5)
# Of the paper's VanillaNet-6 on ImageNet, arXiv 2305.12972: top-1 in percent.
PAPER = {(False, 0): 59.58, (True, 0): 60.53, (False, 3): 75.23, (True, 3): 76.36, (True, 1): 74.53}


def arms() -> tuple[tuple[bool, int], ...]:
    """Deep training or not, and n: the four of the paper's table, and every n with deep training."""
    return ((False, 0), (False, SERIES), *((True, n) for n in ORDERS))


def arm_name(deep: bool, n: int) -> str:
    """As the answers call an arm."""
    return f"{'pairs' if deep else 'single'}, n = {n}"


def jobs(training: TrainingConfig, images: int, seeds: int) -> list[Job]:
    """Every run, seed by seed, so that one that is cut short has whole tables."""
    from benchmarks.training_runs import Job
    from vnas.config import Anneal
    from vnas.nets import Architecture, Stage, Stem

    # Lambda is 1 at progress 0, so the pairs are merged before the first step.
    single = training.model_copy(update={"merge": True, "anneal": Anneal(end=1e-13)})
    shape = ((128, 2), (256, 2), (256, 2), (256, 1))
    found = []
    for seed in range(seeds):
        for deep, n in arms():
            net = Architecture(
                Stem(64, kernel=4, stride=2, padding=1, series=n),
                tuple(Stage(width, stride=stride, series=n) for width, stride in shape),
                num_classes=10,
                image_size=32,
            )
            found.append(Job(NET, arm_name(deep, n), net, training if deep else single, images, seed))
    return found


def run(options: argparse.Namespace) -> list[str]:
    """Do the runs that are missing."""
    from benchmarks.training_runs import opened, perform_all, settings
    from vnas.config import load_study

    study = load_study("cifar10", [f"data.source={options.data}"])
    data = opened(study.data)
    wanted = jobs(study.training, options.images, options.seeds)
    outcomes = perform_all(wanted, study.data, options.answers, settings(wanted, data), options.jobs)
    return report(outcomes, options.images, options.seeds, data.counts["train"])


def report(outcomes: Mapping[tuple[str, str, int], Outcome], images: int, seeds: int, per_epoch: int) -> list[str]:
    """Both tables, and what was left out."""
    from benchmarks.training_runs import over_seeds

    top1 = {
        (task, seed): outcome.scores[0].value for (_, task, seed), outcome in outcomes.items() if outcome.error is None
    }

    def values(deep: bool, n: int) -> dict[int, float]:
        return {seed: top1[arm_name(deep, n), seed] for seed in range(seeds) if (arm_name(deep, n), seed) in top1}

    def cell(found: Sequence[float], sign: str = "") -> str:
        return over_seeds(found).text(sign=sign) if found else ""

    def row(deep: bool, n: int, names: Sequence[str]) -> str:
        ours, least = values(deep, n), values(False, 0)
        gain = [ours[seed] - least[seed] for seed in ours if seed in least]
        paper = PAPER.get((deep, n))
        cells = [*names, cell(list(ours.values())), cell(gain, "+"), "" if paper is None else f"{paper:.2f}"]
        return f"| {' | '.join(cells)} |"

    failed = [f"- Left out: {task}, seed {seed}: {o.error}" for (_, task, seed), o in outcomes.items() if o.error]
    return [
        "# Deep training and the series activation on CIFAR-10",
        "",
        f"{NET} (widths 64, 128, 256, 256, 256; stem 4x4 with stride 2) trained on {images:,} images "
        f"({images / per_epoch:.2g} epochs) with the recipe of studies/cifar10.toml. Top-1 of the fused net on the "
        f"test set in percent; mean of {seeds} seeds with the 95 % interval by Student's t; differences are paired. "
        "The paper's numbers are of VanillaNet-6 on ImageNet after 300 epochs.",
        "",
        f"| deep training | series, n = {SERIES} | top-1 | more than none | paper |",
        "|---|---|---|---|---|",
        row(False, 0, ("", "")),
        row(True, 0, ("x", "")),
        row(False, SERIES, ("", "x")),
        row(True, SERIES, ("x", "x")),
        "",
        "| n, with deep training | top-1 | more than none | paper |",
        "|---|---|---|---|",
        *(row(True, n, (str(n),)) for n in ORDERS),
        *(["", *failed] if failed else []),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, and write the tables."""
    parser = make_parser(__doc__ or "", RESULTS / "technique_table.md", IMAGES)
    return follow(parser, argv, run, "benchmarks.technique_table")


if __name__ == "__main__":
    sys.exit(main())
