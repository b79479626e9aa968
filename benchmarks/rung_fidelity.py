"""How well the accuracy after a rung foretells the order of nets after a run ten times as long as the first rung.

    python -m benchmarks.rung_fidelity --data ../shared/data/cifar10
    python -m benchmarks.rung_fidelity --data ../shared/data/cifar10 --nets 8 --epochs 1 --out rough.md
    python -m benchmarks.rung_fidelity --data ../shared/data/cifar10 --ceiling 24         a second long run of each net

Random nets of a study's space, drawn as the study's own random sampler draws them, are trained by the study's recipe,
each under the lambda schedule that was drawn with it. Nets whose training form multiplies more than --max-mmacs
million times an image are passed over before anything is trained, since one of them takes as long as ten others on a
CPU. Arms and what they cost: see rung_arms.py. Rungs are judged on the validation set, as a search would, the long run
on the test set. Kendall's tau and Spearman's rho come with a 95 % bootstrap over nets; differences of tau are paired.

Each finished run is a line in --answers. Ctrl-C stops; the same command goes on with what is missing, and with more
--nets or --ceiling it adds runs to those there are.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, ConfigError, VnasError

if TYPE_CHECKING:
    from benchmarks.rung_arms import Setting, Task
    from benchmarks.rung_records import Outcome
    from vnas.config import StudyConfig
    from vnas.evaluate import Candidate
    from vnas.nets import Architecture
    from vnas.training import Data

RESULTS = Path(__file__).parent / "results"
MAX_DRAWS = 100
"""For each net wanted: a limit that nearly nothing meets is a mistake."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="\n".join((__doc__ or "").splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--study", default="cifar10", help="gives space, recipe and data (cifar10)")
    found.add_argument("--data", help="where the images are, as for vnas.search (the study's)")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for vnas.search")
    found.add_argument("--nets", type=int, default=24)
    found.add_argument("--epochs", type=int, default=3, help="of the long run (3)")
    found.add_argument(
        "--shares", type=float, nargs="+", default=[0.1, 0.3], help="cost of each rung, as a share of it (0.1 0.3)"
    )
    found.add_argument("--branch-share", type=float, default=0.5, help="of a rung's cost, for its branch (0.5)")
    found.add_argument("--max-mmacs", type=float, default=8.0, help="largest training form, million MACs (8)")
    found.add_argument("--ceiling", type=int, default=0, metavar="N", help="second long runs, with another seed (0)")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--jobs", type=int, help="processes, one thread each (a process a core; 1 on a GPU)")
    found.add_argument("--gpu", type=int, help="index of the GPU; by default the CPU trains")
    found.add_argument("--out", type=Path, default=RESULTS / "rung_fidelity.md", help="file for the tables")
    found.add_argument("--answers", type=Path, help="file for every run, a line of JSON each (beside --out)")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, and write the tables."""
    asked = parser()
    options = asked.parse_args(argv)
    if options.shares[0] <= 0 or options.shares[-1] > 1 or sorted(set(options.shares)) != options.shares:
        asked.error(f"--shares {options.shares} must ascend, from above 0 to at most 1, such as 0.1 0.3")
    if not 0 < options.branch_share < 1:
        asked.error(f"--branch-share {options.branch_share} must be above 0 and below 1")
    if min(options.nets, options.epochs) < 1:
        asked.error("--nets and --epochs must be at least 1")
    try:
        return run(options)
    except VnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are missing", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Run what is missing, and write the tables."""
    from benchmarks import rung_records
    from benchmarks.rung_arms import Setting, perform
    from benchmarks.workers import performed
    from vnas.config import load_study
    from vnas.profiler.devices import resolve_device
    from vnas.training import open_data

    source = [f"data.source={options.data}"] if options.data else []
    study = load_study(options.study, [*source, *options.set, f"training.epochs={options.epochs}"])
    device = resolve_device(options.gpu, None if options.gpu is not None else "cpu")
    data = open_data(study.data)
    nets, passed_over = sample(study, data, options.nets, options.seed, options.max_mmacs)
    setting = Setting(study.data, study.training, tuple(options.shares), options.branch_share, str(device))
    answers = options.answers or options.out.with_suffix(".jsonl")
    outcomes = rung_records.read(answers, depends_on(setting, study, data, options))
    done = rung_records.finished(outcomes)
    wanted = tasks(nets, options.seed, options.ceiling)
    missing = [task for task in wanted if task.key not in done]
    keys = {task.key for task in wanted}
    outcomes = [outcome for outcome in outcomes if outcome.key in keys]
    print(
        f"{len(nets)} nets ({passed_over} passed over), {len(missing)} of {len(wanted)} runs to do, into {answers}",
        file=sys.stderr,
    )
    jobs = options.jobs or (1 if device.type == "cuda" else os.cpu_count() or 1)
    progress = Progress(missing, len(wanted), setting)
    for outcome in performed(functools.partial(perform, setting=setting), missing, jobs):
        rung_records.append(answers, outcome)
        outcomes.append(outcome)
        progress.announce(outcome)
    text = report(outcomes, nets, passed_over, study, data, options, jobs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    return EXIT_DONE


def sample(study: StudyConfig, data: Data, count: int, seed: int, max_mmacs: float) -> tuple[list[Candidate], int]:
    """So many different random nets of the space within the limit of cost, and how many were passed over.

    Raises:
        ConfigError: hardly any net of the space is within the limit, or the space has too few.
    """
    from vnas.search.space import candidate_of, random_draw

    found: list[Candidate] = []
    seen: set[str] = set()
    passed_over = 0
    for number in range(MAX_DRAWS * count):
        candidate = candidate_of(
            random_draw(study.space, (seed, number)),
            study.space,
            in_chans=data.in_chans,
            num_classes=data.num_classes,
            anneal=study.training.anneal,
        )
        digest = candidate.architecture.digest
        if digest in seen:
            continue
        seen.add(digest)
        if training_mmacs(candidate.architecture) > max_mmacs:
            passed_over += 1
            continue
        found.append(candidate)
        if len(found) == count:
            return found, passed_over
    raise ConfigError(
        f"{MAX_DRAWS * count} draws from the space {study.space.name} gave {len(found)} different nets of at most "
        f"{max_mmacs:g} million multiply-accumulates; raise --max-mmacs or ask for fewer --nets"
    )


@functools.cache
def training_mmacs(arch: Architecture) -> float:
    """Millions of multiply-accumulates of one image through the training form."""
    from vnas.nets import VanillaNet, cost

    return cost(VanillaNet(arch, device="meta")).macs / 1e6


def tasks(nets: Sequence[Candidate], seed: int, ceiling: int) -> list[Task]:
    """Every run, net by net, so that one that is cut short has judged whole nets; then the second long runs."""
    from benchmarks.rung_arms import TASKS, Task

    first = [Task(net, name, seed) for net, name in itertools.product(nets, TASKS)]
    return [*first, *(Task(net, "long", seed + 1) for net in nets[:ceiling])]


def depends_on(setting: Setting, study: StudyConfig, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """By name, what the results depend on."""
    import vnas

    recipe = setting.training.model_dump(mode="json")
    return {
        **{f"training.{name}": value for name, value in recipe.items()},
        "space": study.space.model_dump(mode="json"),
        "data": data.fingerprint,
        "shares": list(setting.shares),
        "branch_share": setting.branch_share,
        "device": setting.device.partition(":")[0],
        "seed": options.seed,
        "max_mmacs": options.max_mmacs,
        "vnas": vnas.__version__,
    }


class Progress:
    """Says what was found and how long the rest will take, at the pace of this session."""

    def __init__(self, missing: Sequence[Task], total: int, setting: Setting) -> None:
        self._work = {task.key: _work(task, setting) for task in missing}
        self._all = sum(self._work.values())
        self._left = self._all
        self._total = total
        self._done = total - len(missing)
        self._began = time.monotonic()

    def announce(self, outcome: Outcome) -> None:
        """A line on standard error."""
        self._done += 1
        self._left -= self._work[outcome.key]
        found = "  ".join(f"{score.value:.1f}" for score in outcome.scores if score.arm == outcome.task)
        left = (time.monotonic() - self._began) / max(self._all - self._left, 1e-9) * self._left
        print(
            f"[{self._done}/{self._total}] {outcome.net} {outcome.task:<9} {outcome.error or found:<12} "
            f"{left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def _work(task: Task, setting: Setting) -> float:
    # A constant for what small nets spend beside multiplying, and for judging.
    return (task.epochs(setting) + 0.2) * (training_mmacs(task.net.architecture) + 5.0)


def report(
    outcomes: Sequence[Outcome],
    nets: Sequence[Candidate],
    passed_over: int,
    study: StudyConfig,
    data: Data,
    options: argparse.Namespace,
    jobs: int,
) -> str:
    """The tables, what they say, and the machine."""
    from benchmarks import rung_table
    from benchmarks.profiler_repeatability import machine
    from benchmarks.report_file import command_line

    values = rung_table.by_arm(outcomes, options.seed)
    found = rung_table.rows(values, options.epochs)
    described = {net.digest: (net.architecture.describe(), training_mmacs(net.architecture)) for net in nets}
    judged = rung_table.complete(values)
    failed = [f"{described[one.net][0]}: {one.task}: {one.error}" for one in outcomes if one.error]
    rungs = ", ".join(f"{share * options.epochs:g}" for share in options.shares)
    device = "cpu" if options.gpu is None else f"cuda:{options.gpu}"
    return "\n".join(
        [
            "# How well a rung foretells the order of nets after a long run",
            "",
            f"{len(judged)} random nets of the space {study.space.name}, seed {options.seed}; {passed_over} were "
            f"passed over before training: above {options.max_mmacs:g} million multiply-accumulates in training form. "
            f"Long run: {options.epochs} epochs of {data.counts['train']:,} images, judged on {data.counts['test']:,} "
            f"test images. Rungs after {rungs} epochs in all, judged on {data.counts['validation']:,} validation "
            "images. In brackets: 95 % bootstrap over nets; differences are paired.",
            "",
            *rung_table.markdown(found),
            "",
            *rung_table.verdict(found),
            *(f"- Left out, a run ended early: {line}" for line in failed),
            "",
            "Accuracy of each net in percent (the number after an arm is the rung's):",
            "",
            *rung_table.net_table(values, described),
            "",
            f"{machine(device)}, {jobs} process(es) of one thread, {datetime.datetime.now(datetime.UTC).date()}. "
            f"Command: `{command_line('benchmarks.rung_fidelity', None, {'--data': 'CIFAR10'})}`",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
