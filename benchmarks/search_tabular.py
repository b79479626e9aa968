"""How much of the best there is a search finds for the epochs it spends, on a table of nets that are all known.

    python -m benchmarks.search_tabular --table benchmarks/tables/nasbench201.toml --csv CSV --jobs 2
    python -m benchmarks.search_tabular --table benchmarks/tables/nasbench201.toml --csv CSV --jobs 2 --robust
    python -m benchmarks.search_tabular --table nets.toml --seeds 2 --long-seeds 1 --epochs 10 25 --out rough.md

The table may be anyone's: what its columns mean stands in the TOML file (see vnas/search/tabular/table.py). Epochs cost
what the rungs say; measuring, rejecting and drawing a net again cost none. The score is the hypervolume of the nets
that were trained to the last rung, by their true accuracy, as a share of that of all nets.

    vnas         its engine with the defaults of a study. Epochs known: a study with this limit, in which nobody goes on
                 before all are begun; one run for each limit. Anytime: one long run, read on its way.
    Optuna       asked and told without vnas; every net is trained to the last rung at once.
    forty lines  local search without a model (see benchmarks/search_baselines.py); it knows its epochs.

With --robust the same on tables made from this one. Defaults: 20 seeds, of which 5 go beyond the last limit but one.
Each finished search is a line in --answers; the same command goes on with what is missing, with more --seeds too.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import vnas
from benchmarks import answers_file
from benchmarks.report_file import command_line, parser_of, write
from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, VnasError

if TYPE_CHECKING:
    from benchmarks.search_curves import Curve
    from vnas.search.sampling.samplers import Name
    from vnas.search.tabular.table import Table

RESULTS = Path(__file__).parent / "results"
MULTIPLES = (10.0, 25.0, 50.0, 100.0)
"""Epochs to spend, as multiples of the last rung's."""
READS_PER_NET = 4
"""Points of an anytime curve for each net trained in full, where it is searched for a share."""


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        engine: who searches.
        sampler: by name.
        known: whether it knows the epochs, and runs anew for each limit.
        slow: whether it takes minutes a run; it then has seeds of its own and goes to the second limit only.
    """

    engine: Literal["vnas", "optuna", "lines"]
    sampler: Name = "local"
    known: bool = False
    slow: bool = False


OURS, ANYTIME, LINES, DEFAULT = (
    "vnas, epochs known",
    "vnas, anytime",
    "forty lines, epochs known",
    "Optuna, TPE (default)",
)
METHODS: dict[str, Method] = {
    OURS: Method("vnas", known=True),
    ANYTIME: Method("vnas"),
    "vnas, anytime, sampler tpe": Method("vnas", "tpe", slow=True),
    "vnas, anytime, sampler gp": Method("vnas", "gp", slow=True),
    "vnas, anytime, sampler nsga2": Method("vnas", "nsga2"),
    "vnas, anytime, sampler random": Method("vnas", "random"),
    LINES: Method("lines", known=True),
    DEFAULT: Method("optuna", "tpe"),
    "Optuna, NSGA-II": Method("optuna", "nsga2"),
    "Optuna, random": Method("optuna", "random"),
}
AS_IT_IS = "as it is"
ROBUST_METHODS = (OURS, LINES, DEFAULT)


@dataclass(frozen=True)
class Target:
    """What a method is to reach on NAS-Bench-201: a mean over the seeds, or the worst of them."""

    method: str
    limited: bool
    epochs: float
    share: float
    worst: bool = False


TARGETS = (
    Target(OURS, False, 2_000, 0.95),
    Target(OURS, False, 5_000, 0.985),
    Target(OURS, False, 10_000, 0.993),
    Target(OURS, False, 2_000, 0.88, worst=True),
    Target(OURS, True, 2_000, 0.975),
    Target(OURS, True, 5_000, 0.992),
    Target(ANYTIME, False, 2_000, 0.92),
    Target(ANYTIME, False, 5_000, 0.975),
)
TARGETS_ARE_FOR = "nasbench201.toml"


@dataclass(frozen=True)
class Task:
    """One search.

    Attributes:
        method: by name.
        variant: of the table, by name.
        budget_ms: latency that a net may have.
        seed: of the search and the trainings.
        epochs: that it may spend.
        until: epochs after which it is not looked at.
    """

    method: str
    variant: str
    budget_ms: float | None
    seed: int
    epochs: float
    until: float


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        limits: epochs, ascending.
        budget_ms: latency of the searches with a budget.
        seeds: searches of each method.
        long_seeds: of those of vnas, that go beyond the last limit but one.
        slow_seeds: searches of a slow method.
        robust: whether there are variants.
    """

    limits: tuple[float, ...]
    budget_ms: float
    seeds: int
    long_seeds: int
    slow_seeds: int
    robust: bool

    def section(self, budget_ms: float | None) -> tuple[float, ...]:
        """The limits that are read, of the searches with a latency budget or without."""
        return self.limits if budget_ms is None or len(self.limits) == 1 else self.limits[:-1]

    @property
    def middle(self) -> float:
        """The limit of the slow methods and of the variants."""
        return self.limits[min(1, len(self.limits) - 1)]

    def searches(self) -> Iterator[Task]:
        """Every search."""
        for budget_ms in (None, self.budget_ms):
            for name in METHODS:
                yield from self._of(name, budget_ms)
        if self.robust:
            from benchmarks.search_variants import VARIANTS

            for variant in VARIANTS:
                for name in ROBUST_METHODS if variant != AS_IT_IS else ():
                    for seed in range(self.seeds):
                        yield Task(name, variant, None, seed, self.middle, self.middle)

    def _of(self, name: str, budget_ms: float | None) -> Iterator[Task]:
        method, section = METHODS[name], self.section(budget_ms)
        if method.slow:
            section = tuple(limit for limit in section if limit <= self.middle)
        for seed in range(min(self.seeds, self.slow_seeds) if method.slow else self.seeds):
            brief = method.engine == "vnas" and seed >= self.long_seeds and len(self.limits) > 1
            read = [limit for limit in section if limit <= self.limits[-2]] if brief else section
            if method.known:
                for epochs in read:
                    yield Task(name, AS_IT_IS, budget_ms, seed, epochs, epochs)
            else:
                yield Task(name, AS_IT_IS, budget_ms, seed, self.limits[-1], read[-1])


@functools.cache
def opened(mapping: Path, csv: Path | None, variant: str) -> Table:
    """A table, read and made once a process."""
    from benchmarks.search_variants import VARIANTS
    from vnas.search.tabular.table import load

    return load(mapping, csv) if variant == AS_IT_IS else VARIANTS[variant](opened(mapping, csv, AS_IT_IS))


def perform(task: Task, mapping: Path, csv: Path | None) -> tuple[Task, Curve]:
    """Do one search, and time it."""
    table = opened(mapping, csv, task.variant)
    began = time.process_time()
    curve = curve_of(task, table)
    curve.cpu_seconds = time.process_time() - began
    return task, curve


def curve_of(task: Task, table: Table) -> Curve:
    """What one search finds."""
    from benchmarks.search_baselines import forty_lines, optuna_curve
    from benchmarks.search_curves import searched

    method = METHODS[task.method]
    if method.engine == "lines":
        return forty_lines(table, task.seed, task.epochs, task.budget_ms)
    if method.engine == "optuna":
        return optuna_curve(table, task.seed, task.until, method.sampler, task.budget_ms)
    return searched(
        table,
        task.seed,
        task.epochs,
        sampler=method.sampler,
        budget_ms=task.budget_ms,
        last=method.known,
        until=task.until,
    )


class Answers:
    """The curves of all searches.

    Args:
        table: as it is.
        curves: by search.
    """

    def __init__(self, table: Table, curves: Mapping[Task, Curve]) -> None:
        self.table = table
        self._curves: dict[tuple[str, str, float | None], list[tuple[Task, Curve]]] = {}
        for task, curve in sorted(curves.items(), key=lambda item: item[0].seed):
            self._curves.setdefault((task.method, task.variant, task.budget_ms), []).append((task, curve))

    def curves(
        self, method: str, epochs: float, budget_ms: float | None = None, variant: str = AS_IT_IS
    ) -> list[Curve]:
        """The curves that say what a method has after so many epochs, by seed."""
        found = self._curves.get((method, variant, budget_ms), ())
        known = METHODS[method].known
        return [curve for task, curve in found if (task.epochs == epochs if known else task.until >= epochs)]

    def shares(
        self, method: str, epochs: float, budget_ms: float | None = None, variant: str = AS_IT_IS, *, of: Table
    ) -> list[float]:
        """Of the optimum, by seed."""
        return [curve.share(of, epochs, budget_ms) for curve in self.curves(method, epochs, budget_ms, variant)]

    def cpu_ms_per_net(self, method: str, budget_ms: float | None) -> float:
        """Of the search itself, whose trainings cost nothing; over all its searches."""
        curves = [curve for _, curve in self._curves[method, AS_IT_IS, budget_ms]]
        return 1e3 * sum(curve.cpu_seconds for curve in curves) / max(1, sum(curve.trained for curve in curves))

    def reached(self, method: str, share: float, plan: Plan, budget_ms: float | None) -> float | None:
        """The fewest epochs with which a method has such a share, in the mean over its seeds; None for never."""
        if METHODS[method].known:
            points = list(plan.section(budget_ms))
        else:
            step = self.table.rungs[-1] / READS_PER_NET
            points = [step * count for count in range(1, round(plan.section(budget_ms)[-1] / step) + 1)]
        for epochs in points:
            values = self.shares(method, epochs, budget_ms, of=self.table)
            if values and statistics.fmean(values) >= share - 1e-9:
                return epochs
        return None


def cell(values: Sequence[float], seeds: int) -> str:
    """Mean and worst of some seeds, and how many where it is not all of them."""
    if not values:
        return ""
    count = "" if len(values) == seeds else f", n = {len(values)}"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}{count})"


def section(answers: Answers, plan: Plan, budget_ms: float | None) -> list[str]:
    """The table of the searches with a latency budget, or without."""
    limits = plan.section(budget_ms)
    middle = min(plan.middle, limits[-1])
    end = statistics.fmean(answers.shares(DEFAULT, limits[-1], budget_ms, of=answers.table))
    rows = []
    for name in METHODS:
        if METHODS[name].slow and not plan.slow_seeds:
            continue
        cells = [name, *(cell(answers.shares(name, at, budget_ms, of=answers.table), plan.seeds) for at in limits)]
        epochs = answers.reached(name, end, plan, budget_ms)
        cells.append("not reached" if epochs is None else f"{epochs:,.0f} (1/{limits[-1] / epochs:.1f})")
        looks = [curve.measured_per_trained(middle) for curve in answers.curves(name, middle, budget_ms)]
        known = [value for value in looks if value is not None]
        cells.append(f"{statistics.fmean(known):.1f}" if known else "")
        cells.append(f"{answers.cpu_ms_per_net(name, budget_ms):.0f}")
        rows.append(f"| {' | '.join(cells)} |")
    title = "Without a latency budget" if budget_ms is None else f"Under {budget_ms:g} ms"
    columns = [
        "method",
        *(f"{limit:,.0f}" for limit in limits),
        f"epochs to {end:.3f}, what Optuna's default has at {limits[-1]:,.0f}",
        f"nets measured for each trained, at {middle:,.0f}",
        "CPU of the search for each net trained, ms",
    ]
    return [f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *rows, ""]


def robust(answers: Answers, plan: Plan, tables: Mapping[str, Table]) -> list[str]:
    """The table of the variants."""
    rows = []
    for variant, table in tables.items():
        found = [answers.shares(name, plan.middle, None, variant, of=table) for name in ROBUST_METHODS]
        rows.append(f"| {' | '.join([variant, f'{len(table):,}', *(cell(values, plan.seeds) for values in found)])} |")
    return [
        f"## On other tables made of this one, at {plan.middle:,.0f} epochs",
        "",
        f"| table | nets | {' | '.join(ROBUST_METHODS)} |",
        f"|---|---|{'---|' * len(ROBUST_METHODS)}",
        *rows,
        "",
    ]


def verdict(answers: Answers, budget_ms: float) -> list[str]:
    """Each target, and whether it is met."""
    lines = []
    for target in TARGETS:
        limit = budget_ms if target.limited else None
        values = answers.shares(target.method, target.epochs, limit, of=answers.table)
        if not values:
            continue
        found = min(values) if target.worst else statistics.fmean(values)
        what = f"{target.method}{f', under {budget_ms:g} ms' if target.limited else ''}, {target.epochs:,.0f} epochs"
        which = "the worst seed" if target.worst else "the mean"
        met = "met" if found >= target.share else "missed"
        lines.append(f"- {what}: {which} is {found:.3f}; the target of {target.share:g} is {met}.")
    return lines


def report(answers: Answers, plan: Plan, tables: Mapping[str, Table], mapping: Path) -> list[str]:
    """All tables, and the targets where there are any."""
    table = answers.table
    error, latency_ms = table.reference
    of_record = mapping.name == TARGETS_ARE_FOR and plan.budget_ms == latency_ms / 2
    lines = [
        f"# Search on a table of {len(table):,} nets ({mapping.stem})",
        "",
        "Hypervolume of the nets trained to the last rung, by their true accuracy, as a share of that of all nets; "
        f"the reference is {error:g} % error and {latency_ms:g} ms. Mean over {plan.seeds} seeds, in brackets the "
        f"worst. Columns: epochs spent; a net costs {', '.join(f'{rung:g}' for rung in table.rungs)} in all at a rung. "
        f"n: searches where they are fewer: beyond {plan.limits[max(0, len(plan.limits) - 2)]:,.0f} epochs for vnas, "
        "and for the samplers tpe and gp, which take minutes a search and stop at the second limit. Optuna trains "
        "every net to the last rung at once. Behind the epochs that reach what Optuna's default has: their share "
        "of its own.",
        "",
        *section(answers, plan, None),
        *section(answers, plan, plan.budget_ms),
        *(robust(answers, plan, tables) if plan.robust else []),
    ]
    return lines + (verdict(answers, plan.budget_ms) if of_record else [])


def run(options: argparse.Namespace) -> list[str]:
    """Do every search."""
    from benchmarks.search_variants import VARIANTS
    from benchmarks.workers import performed

    table = opened(options.table, options.csv, AS_IT_IS)
    budget_ms = table.reference[1] / 2 if options.latency_budget is None else options.latency_budget
    limits = tuple(sorted({multiple * table.rungs[-1] for multiple in options.epochs}))
    plan = Plan(
        limits,
        budget_ms,
        options.seeds,
        min(options.long_seeds, options.seeds),
        options.slow_seeds,
        options.robust,
    )
    # Seed by seed: a run that is cut short can be shown with fewer of them.
    tasks = sorted(plan.searches(), key=lambda task: (METHODS[task.method].slow, task.seed, -task.until))
    curves: dict[Task, Curve] = dict(answers_file.read(options.answers, settings_of(table, options.table), answer))
    tasks = [task for task in tasks if task not in curves]
    many = len(curves) + len(tasks)
    began = time.monotonic()
    work = partial(perform, mapping=options.table, csv=options.csv)
    for task, curve in performed(work, tasks, options.jobs):
        curves[task] = curve
        answers_file.append(options.answers, {"task": asdict(task), "curve": asdict(curve)})
        under = "" if task.budget_ms is None else f", under {task.budget_ms:g} ms"
        share = curve.share(opened(options.table, options.csv, task.variant), task.until, task.budget_ms)
        print(
            f"[{len(curves)}/{many}, {(time.monotonic() - began) / 60:.1f} min] {task.method}{under}, "
            f"{task.variant}, seed {task.seed}: {share:.3f} at {task.until:,.0f}, {curve.cpu_seconds:.1f} s of CPU",
            file=sys.stderr,
            flush=True,
        )
    names = VARIANTS if plan.robust else (AS_IT_IS,)
    tables = {name: opened(options.table, options.csv, name) for name in names}
    asked = set(plan.searches())
    return report(Answers(table, {task: curves[task] for task in asked}), plan, tables, options.table)


def settings_of(table: Table, mapping: Path) -> dict[str, Any]:
    """What the answers depend on."""
    return {"version": vnas.__version__, "table": mapping.name, "nets": len(table), "rungs": list(table.rungs)}


def answer(line: Mapping[str, Any]) -> tuple[Task, Curve]:
    """A search and its curve of a line of the answers."""
    from benchmarks.search_curves import Curve, Step

    curve = line["curve"]
    return Task(**line["task"]), Curve([Step(**step) for step in curve["steps"]], curve["cpu_seconds"])


def make_parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--table", type=Path, required=True, help="TOML file that says what the columns mean")
    parser.add_argument("--csv", type=Path, help="the nets, where the TOML file names no file of them")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method (20)")
    parser.add_argument(
        "--long-seeds", type=int, default=5, help="of vnas' searches, that go beyond the last limit but one (5)"
    )
    parser.add_argument(
        "--slow-seeds", type=int, default=5, help="searches with the samplers tpe and gp, which take minutes each (5)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each (1)")
    parser.add_argument(
        *("--epochs",),
        type=float,
        nargs="+",
        default=MULTIPLES,
        metavar="TIMES",
        help="limits, as multiples of the last rung's epochs (10 25 50 100)",
    )
    parser.add_argument("--latency-budget", type=float, metavar="MS", help="(half of the reference latency)")
    parser.add_argument("--robust", action="store_true", help="search tables made of this one too")
    parser.add_argument(
        *("--answers",),
        type=Path,
        default=RESULTS / "search_tabular.jsonl",
        help="file for the finished searches",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "search_tabular.md", help="file for the tables")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search, and write the tables."""
    parser = make_parser()
    options = parser.parse_args(argv)
    for name in ("seeds", "long_seeds", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    began = time.monotonic()
    try:
        lines = run(options)
    except VnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    how = f"{options.jobs} process(es) of one thread, {(time.monotonic() - began) / 60:.1f} min"
    write(options.out, lines, how, command_line("benchmarks.search_tabular", argv, {"--csv": "CSV"}))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
