"""Accuracy on CIFAR-10 after a short training with the study's recipe, beside a plain recipe given the same time.

    python -m benchmarks.short_budget --data ../shared/data/cifar10 --jobs 2
    python -m benchmarks.short_budget --data ../shared/data/cifar10 --images 4500 --seeds 1 --out rough.md

Nets: three drawn from search_spaces/cifar.toml, each with the lambda schedule that was drawn with it, and one of the
paper's shape, narrowed. Arms:

    recipe    [training] of studies/cifar10.toml
    plain     AdamW, one cycle of the learning rate, images mirrored: PLAIN below

Every run of the recipe trains on --images images: the budget. A step of the recipe may cost more than one of the plain
recipe, so the plain one is given as many images more as make its run as long: by the ratio of their seconds an image,
measured for each net before anything is trained, in turns, and kept with the answers. Where the recipe is the cheaper
one, both have the same number of images.

Accuracy is the fused net's on the test set. The recipe was chosen on other nets of the space, other seeds and the
validation set. Each finished run is a line in --answers; the same command goes on with what is missing, and with more
--seeds it adds runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_command import follow, make_parser

if TYPE_CHECKING:
    from benchmarks.rung_records import Outcome
    from benchmarks.training_runs import Interval, Job
    from vnas.config import StudyConfig, TrainingConfig
    from vnas.training import Data, Progress

RESULTS = Path(__file__).parent / "results"
IMAGES = 45_000
TARGET_POINTS = 3.0
RECIPE, PLAIN_ARM, PACE = "recipe", "plain", "pace"
FIRST_SEED = 100
NETS_SEED = 0
MAX_MMACS = 15.0
"""Largest training form of a drawn net, million multiply-accumulates an image."""
PLAIN: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 256,
    "optimizer": "adamw",
    "lr": 3e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 2.5,
    "label_smoothing": 0.0,
    "flip": True,
}
TURNS = 5
TURN_IMAGES = 2048


def jobs(study: StudyConfig, data: Data, images: int, seeds: int) -> list[Job]:
    """Every run, seed by seed, before the plain recipe is given more images."""
    from benchmarks.training_runs import Job
    from vnas.config import TrainingConfig

    plain = TrainingConfig(**PLAIN)
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for name, candidate in nets(study, data).items():
            for arm, training in ((RECIPE, study.training), (PLAIN_ARM, plain)):
                own: TrainingConfig = training.model_copy(update={"anneal": candidate.anneal})
                found.append(Job(name, arm, candidate.architecture, own, images, seed))
    return found


def nets(study: StudyConfig, data: Data) -> dict[str, Any]:
    """Candidates by description."""
    from benchmarks.rung_fidelity import sample
    from vnas.config import PAPER_ANNEAL
    from vnas.evaluate import Candidate
    from vnas.nets import Architecture, Stage, Stem

    like_paper = Architecture(
        Stem(64, kernel=4, stride=4, padding=0, series=2),
        (Stage(128, stride=2, series=2), Stage(256, stride=2, series=1), Stage(384, stride=1, series=1)),
        num_classes=data.num_classes,
        in_chans=data.in_chans,
        image_size=32,
    )
    drawn, _ = sample(study, data, 3, NETS_SEED, MAX_MMACS)
    found = [*drawn, Candidate(like_paper, PAPER_ANNEAL)]
    return {candidate.architecture.describe(): candidate for candidate in found}


def extra_images(ratio: float, images: int) -> int:
    """Images of the plain recipe, where a step of the recipe costs so many times as much an image."""
    return round(images * max(1.0, ratio))


class _EnoughError(Exception):
    """Ends a run that was only to be timed."""


def seconds_per_image(job: Job, data: Data) -> float:
    """Pace of training, without its first step and without judging the net."""
    import torch

    from benchmarks.training_runs import CPU
    from vnas.training.rungs.training import Rung, train_rungs

    torch.set_num_threads(1)
    steps = max(2, TURN_IMAGES // job.training.batch_size)
    seconds: list[float] = []

    def look(progress: Progress) -> None:
        seconds.append(progress.seconds)
        if progress.step == steps:
            raise _EnoughError

    # As many epochs as those steps take, and one more.
    epochs = 1.0 + steps * job.training.batch_size / data.counts["train"]
    with suppress(_EnoughError):
        next(
            train_rungs(
                job.architecture, data, job.training, [Rung(0.0, epochs)], seed=job.seed, device=CPU, progress=look
            )
        )
    return (seconds[-1] - seconds[0]) / ((steps - 1) * job.training.batch_size)


def pace(pair: Mapping[str, Job], data: Data) -> float:
    """Seconds an image of the recipe over the plain one's, the median of turns."""
    turns = [{arm: seconds_per_image(job, data) for arm, job in pair.items()} for _ in range(TURNS)]
    return statistics.median(turn[RECIPE] / turn[PLAIN_ARM] for turn in turns)


def paces(wanted: Sequence[Job], data: Data, answers: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """The ratio of each net, from the answers or measured now."""
    from benchmarks.rung_records import Outcome, Score, append, read

    known = {outcome.net: outcome.scores[0].value for outcome in read(answers, settings) if outcome.task == PACE}
    for net in dict.fromkeys(job.net for job in wanted):
        if net not in known:
            pair = {job.arm: job for job in wanted if job.net == net and job.seed == FIRST_SEED}
            known[net] = pace(pair, data)
            append(answers, Outcome(net, PACE, FIRST_SEED, (Score(PACE, 0, known[net], 0.0, 0.0),)))
            print(f"{net}: the recipe takes {known[net]:.2f} of the plain one's time an image", file=sys.stderr)
    return known


def run(options: argparse.Namespace) -> list[str]:
    """Do the runs that are missing."""
    from benchmarks.training_runs import opened, perform_all, settings
    from vnas.config import load_study
    from vnas.profiler.allocator import keep_freed_memory

    keep_freed_memory()
    study = load_study("cifar10", [f"data.source={options.data}"])
    data = opened(study.data)
    wanted = jobs(study, data, options.images, options.seeds)
    depends_on = settings(wanted, data)
    ratios = paces(wanted, data, options.answers, depends_on)
    wanted = [
        replace(job, images=extra_images(ratios[job.net], job.images)) if job.arm == PLAIN_ARM else job
        for job in wanted
    ]
    outcomes = perform_all(wanted, study.data, options.answers, depends_on, options.jobs)
    return report(wanted, outcomes, data.counts["train"])


def report(wanted: Sequence[Job], outcomes: Mapping[tuple[str, str, int], Outcome], per_epoch: int) -> list[str]:
    """The table, what it says, and what was left out."""
    from benchmarks.training_runs import over_nets, over_seeds

    images: dict[tuple[str, str], int] = {(job.net, job.arm): job.images for job in wanted}
    scores = {key: outcome.scores[0] for key, outcome in outcomes.items() if outcome.error is None}
    rows, gains, times = [], [], []
    for net in dict.fromkeys(job.net for job in wanted):
        seeds = [s for n, arm, s in scores if n == net and arm == RECIPE and (net, PLAIN_ARM, s) in scores]
        if not seeds:
            continue
        values = {arm: [scores[net, arm, seed].value for seed in seeds] for arm in (PLAIN_ARM, RECIPE)}
        spent = {arm: sum(scores[net, arm, seed].seconds for seed in seeds) for arm in (PLAIN_ARM, RECIPE)}
        gains.append([ours - theirs for ours, theirs in zip(values[RECIPE], values[PLAIN_ARM], strict=True)])
        times.append(spent[RECIPE] / spent[PLAIN_ARM])
        cells = [
            net,
            f"{images[net, PLAIN_ARM]:,}",
            over_seeds(values[PLAIN_ARM]).text(),
            f"{images[net, RECIPE]:,}",
            over_seeds(values[RECIPE]).text(),
            over_seeds(gains[-1]).text(sign="+"),
            f"{times[-1]:.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    failed = [f"- Left out: {net}, {arm}, seed {s}: {o.error}" for (net, arm, s), o in outcomes.items() if o.error]
    budget = max(count for (_, arm), count in images.items() if arm == RECIPE)
    return [
        "# A recipe for short budgets beside a plain one",
        "",
        f"Budget: {budget:,} images of CIFAR-10 ({budget / per_epoch:.2g} epochs) for the recipe of "
        "studies/cifar10.toml; as many for the plain one (AdamW, one cycle, mirrored), or more where that takes it no "
        "longer. Top-1 of the fused net on the test set in percent. In brackets: 95 %, for a net by Student's t over "
        f"its {max((len(gain) for gain in gains), default=0)} seeds, at the end by a bootstrap over nets and seeds.",
        "",
        "| net | images, plain | plain | images, recipe | recipe | difference | time, recipe / plain |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *([verdict(over_nets(gains), times)] if gains else []),
        *failed,
    ]


def verdict(gain: Interval, times: Sequence[float]) -> str:
    """Whether the target is met, and whether both had the same time."""
    met = "met" if gain.mean >= TARGET_POINTS else "missed"
    return (
        f"Recipe less plain: {gain.text(sign='+')} points; the target of {TARGET_POINTS:g} is {met}. The runs of the "
        f"recipe took {min(times):.2f} to {max(times):.2f} of the plain ones' time."
    )


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, and write the table."""
    parser = make_parser(__doc__ or "", RESULTS / "short_budget.md", IMAGES)
    return follow(parser, argv, run, "benchmarks.short_budget")


if __name__ == "__main__":
    sys.exit(main())
