"""A search on CIFAR-10 with vnas, beside a plain Optuna script, for the same wall time.

    python -m benchmarks.search_cifar --data path/to/cifar10       about 35 minutes on two cores (3 seeds of 11 minutes)

    vnas     studies/cifar10.toml: latency first, gates, the first rung at a tenth of the epochs, its sampler
    plain    Optuna's default sampler for two objectives; each draw trained in full by the same code on the same data,
             its latency measured after that, by the same code; a net that was drawn before is not trained again

Both draw from the same space and train with the same recipe; an epoch is a part of the training images, so that a full
training takes seconds. The two run side by side, each on a core of its own with one thread, from the same seed on.
What counts is the hypervolume of the nets trained in full, by the validation accuracy of the fused net and its latency:
error up to that of guessing, latency up to the slowest net that either trained in full with that seed.

The table has the share of the plain script's time after which vnas has what the plain script has in the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report_file import command_line, parser_of, write
from vnas.errors import EXIT_FAILED

RESULTS = Path(__file__).parent / "results"
ARMS = ("vnas", "plain")
TARGET = 1.0 / 3.0
MAX_MMACS = 2.0
"""Millions of multiply-accumulates of the largest net that is trained; larger ones leave too few to compare."""


def study_for(data: str, seed: int, seconds: float, epochs: int) -> Any:
    """The study, for short full trainings."""
    from vnas.config import load_study

    return load_study(
        "cifar10",
        [
            f'data.source="{data}"',
            f"training.epochs={epochs}",
            f"seed={seed}",
            "trials=100000",
            f"time_limit_minutes={seconds / 60}",
            f"constraints.macs={int(MAX_MMACS * 1e6)}",
            "latency.threads=1",
            "latency.max_seconds=1.0",
            "latency.min_seconds=0.2",
        ],
    )


def vnas_arm(config: Any, data: Any, say: Any) -> None:
    """The engine, in this process; ``say`` is told every net that was trained in full."""
    import optuna
    import torch

    from vnas.evaluate import NetEvaluator
    from vnas.search.engine.driver import Driver
    from vnas.search.engine.inline import InlineExecutor
    from vnas.search.engine.ledger import Ledger
    from vnas.search.engine.reporting import Silent
    from vnas.search.engine.rules import Rules
    from vnas.search.nets import NetProblem

    class Teller(Silent):
        def trial_finished(self, line: Any, done: int, total: int) -> None:
            if line.state == "complete":
                say(line.val_top1, line.latency_ms[0])

    problem = NetProblem(config, in_chans=data.in_chans, num_classes=data.num_classes)
    study = optuna.create_study(directions=["maximize", "minimize"])
    rules = Rules.of(config, floor=100.0 / data.num_classes)
    driver = Driver(problem, Ledger(study, problem.choices, "benchmark"), rules, Teller())
    with tempfile.TemporaryDirectory() as folder:
        evaluator = NetEvaluator(config, data, torch.device("cpu"), 1, Path(folder))
        driver.run(InlineExecutor(evaluator, lambda number, share: None))
    first, above = driver.book.epochs()
    print(json.dumps({"candidates": driver.book.counted, "epochs": first + above, "saved": driver.book.saved()}))


def plain_arm(config: Any, data: Any, say: Any) -> None:
    """What one writes with Optuna alone."""
    import optuna
    import torch

    from vnas.errors import VnasError
    from vnas.evaluate import measure_architecture, train
    from vnas.nets import cost
    from vnas.search.space import candidate_of, choices

    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=config.seed)
    )
    device = torch.device("cpu")
    known: dict[str, tuple[float, float]] = {}
    end = time.monotonic() + 60.0 * config.time_limit_minutes
    while time.monotonic() < end:
        trial = study.ask()
        drawn = {name: trial.suggest_categorical(name, options) for name, options in choices(config.space).items()}
        candidate = candidate_of(
            drawn,
            config.space,
            in_chans=data.in_chans,
            num_classes=data.num_classes,
            anneal=config.training.anneal,
        )
        if candidate.digest in known:
            study.tell(trial, known[candidate.digest])
            continue
        if cost(candidate.architecture, candidate.architecture.image_size).macs > config.constraints.macs:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        try:
            result = train(candidate, data, config.training, seed=candidate.seed(config.seed), device=device)
            measured = measure_architecture(candidate.architecture, device, config.latency)
        except VnasError:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        known[candidate.digest] = (result.val_top1, measured.median_ms)
        study.tell(trial, known[candidate.digest])
        say(*known[candidate.digest])
    print(json.dumps({"candidates": len(known), "epochs": float(len(known) * config.training.epochs), "saved": {}}))


def arm(args: argparse.Namespace) -> int:
    """One arm with one seed, a line of JSON on standard output for every net that was trained in full."""
    import optuna
    import torch

    from vnas.profiler.allocator import keep_freed_memory
    from vnas.training import open_data

    keep_freed_memory()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = study_for(args.data, args.seed, args.seconds, args.epochs)
    data = open_data(config.data)
    began = time.monotonic()

    def say(val_top1: float, latency_ms: float) -> None:
        found = {"seconds": time.monotonic() - began, "val_top1": val_top1, "latency_ms": latency_ms}
        print(json.dumps(found), flush=True)

    {"vnas": vnas_arm, "plain": plain_arm}[args.arm](config, data, say)
    return 0


def curve(found: Sequence[Mapping[str, float]], corner: tuple[float, float]) -> list[tuple[float, float]]:
    """Seconds and hypervolume after each net that was trained in full."""
    from vnas.pareto import hypervolume

    points = [(100.0 - one["val_top1"], one["latency_ms"]) for one in found]
    return [(one["seconds"], hypervolume(points[: at + 1], corner)) for at, one in enumerate(found)]


def share_of_time(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], seconds: float) -> float:
    """When ours passes what theirs has in the end, as a share of the time; infinite where it does not."""
    goal = theirs[-1][1] if theirs else 0.0
    return next((at / seconds for at, volume in ours if volume >= goal), math.inf)


def side_by_side(args: argparse.Namespace, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Both arms at once, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    running = {}
    for place, name in enumerate(ARMS):
        flags = ["--data", args.data, "--seconds", str(args.seconds), "--epochs", str(args.epochs)]
        words = [sys.executable, "-m", "benchmarks.search_cifar", *flags, "--arm", name, "--seed", str(seed)]
        core = cores[place % len(cores)]
        with tempfile.TemporaryDirectory() as locks:
            there = {**os.environ, "OMP_NUM_THREADS": "1", "VNAS_LOCK_DIR": locks}
        running[name] = subprocess.Popen(
            ["taskset", "-c", str(core), *words], stdout=subprocess.PIPE, text=True, env=there
        )
    found = {}
    for name, process in running.items():
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"arm {name} with seed {seed} ended with {process.returncode}")
        found[name] = [json.loads(line) for line in output.splitlines()]
    return found


def report(seeds: Mapping[int, Mapping[str, list[dict[str, Any]]]], seconds: float) -> list[str]:
    """The table and what it comes to."""
    lines = [
        "| seed | arm | nets trained in full | nets trained | epochs | hypervolume at 1/3 | at 2/3 | at the end |"
        " time to the plain script's end |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for seed, arms in seeds.items():
        nets = {name: [one for one in found if "val_top1" in one] for name, found in arms.items()}
        slowest = max(one["latency_ms"] for found in nets.values() for one in found)
        corner = (90.0, slowest)
        curves = {name: curve(found, corner) for name, found in nets.items()}
        goal = curves["plain"][-1][1]
        ratio = share_of_time(curves["vnas"], curves["plain"], seconds)
        ratios.append(ratio)
        for name in ARMS:
            totals = arms[name][-1]
            volumes = [
                max((volume for at, volume in curves[name] if at <= part * seconds), default=0.0) / goal
                for part in (1 / 3, 2 / 3, math.inf)
            ]
            cells = [f"{volume:.3f}" for volume in volumes]
            last = (f"{ratio:.2f}" if math.isfinite(ratio) else "not reached") if name == "vnas" else "1"
            lines.append(
                f"| {seed} | {name} | {len(nets[name])} | {totals['candidates']} | {totals['epochs']:.1f} | "
                f"{' | '.join(cells)} | {last} |"
            )
    middle = statistics.median(ratios)
    said = f"{middle:.2f}" if math.isfinite(middle) else "not reached"
    met = "met" if middle <= TARGET else "not met"
    lines += [
        "",
        "Hypervolumes are shares of what the plain script has in the end.",
        "",
        f"- vnas passes the plain script's last hypervolume after {said} of its time in the median of "
        f"{len(ratios)} seeds (target 1/3 or less: {met}).",
    ]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or one of its arms."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", required=True, help="folder or .tar of CIFAR-10, as for vnas.training")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each arm (600)")
    parser.add_argument("--epochs", type=int, default=1, help="of a full training (1)")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs (3)")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_cifar.md", help="file for the table")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.arm:
        return arm(args)
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < len(ARMS):
        print("two cores are needed, on Linux: the arms run side by side", file=sys.stderr)
        return EXIT_FAILED
    seeds = {}
    for seed in range(args.seeds):
        seeds[seed] = side_by_side(args, seed)
        print(f"seed {seed} of {args.seeds} done", file=sys.stderr)
    lines = [
        "# A search on CIFAR-10 with vnas and with a plain Optuna script",
        "",
        f"The space is cifar, nets up to {MAX_MMACS:g} million multiply-accumulates; a full training is "
        f"{args.epochs} epoch(s) of 45,000 images, judged on 5,000 validation images. {args.seconds:g} s for each arm, "
        "side by side, a core and a thread each.",
        "",
        *report(seeds, args.seconds),
    ]
    how = "a process of one thread for each arm"
    write(args.out, lines, how, command_line("benchmarks.search_cifar", argv, {"--data": "CIFAR10"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
