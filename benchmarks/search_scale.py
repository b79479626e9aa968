"""What the engine of a study costs beside the work: time a trial and memory over 10,000 trials, and trials a second.

    python -m benchmarks.search_scale
    python -m benchmarks.search_scale --trials 1000 --samplers nsga2 random --storages memory --out rough.md

A space of 16,777,216 nets (benchmarks/search_analytic.py) whose answers cost next to nothing: what passes between the
ends of two trials is the driver's, the sampler's and the storage's time. Two rungs; nets are measured, turned away or
trained, put off and sent on as in any study, with its gates but one: --all-gates adds the gate that turns away nets
without hope, which leaves so few of random draws that a study of them ends early. Each row is a process of its own, so
that its peak of memory is its own, and ends after --minutes at the latest. Optuna's Gaussian process does 300 trials.

Then real worker processes whose trainings sleep, on a journal file: trainings a second, as a share of what so many
sleepers could do.

All of it takes up to two hours: most studies end with their --minutes, unless --trials are fewer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report_file import command_line, parser_of, write
from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, VnasError
from vnas.search.engine.reporting import Silent, TrialLine

if TYPE_CHECKING:
    import optuna

    from vnas.search.engine.driver import Driver
    from vnas.search.engine.protocol import Executor
    from vnas.search.sampling.samplers import Name

RESULTS = Path(__file__).parent / "results"
SAMPLERS: tuple[Name, ...] = ("nsga2", "random", "local", "tpe", "gp")
STORAGES = ("memory", "journal", "sqlite")
GP_TRIALS = 300
"""Its models grow with the cube of the trials."""
WINDOW = 500
"""Trials at the beginning and at the end whose times are looked at."""
TARGET_MS = 50.0
TARGET_SAMPLERS = ("nsga2", "random")
WORKERS = (1, 4, 16)
SLEEP_SECONDS = 0.05
SLEEPS_PER_WORKER = 100
NEVER = 1e9
"""Simulated seconds that no study comes to."""


@dataclass(frozen=True)
class Task:
    """One study.

    Attributes:
        sampler: by name.
        storage: ``memory``, ``journal`` or ``sqlite``.
        trials: after whose end it ends.
        minutes: after which it ends in any case.
        all_gates: whether nets without hope are turned away.
        read: whether the report reads what is stored.
    """

    sampler: Name
    storage: str
    trials: int
    minutes: float
    all_gates: bool
    read: bool = False


@dataclass(frozen=True)
class Outcome:
    """What one study took.

    Attributes:
        task: which.
        seconds: wall time from the end of one trial to that of the next, in order.
        cpu_seconds: of all trials.
        states: trials by how they ended.
        start_mib: peak of memory before the first trial.
        peak_mib: after the last.
        file_mib: size of the storage's file; None in memory.
        ended: why it ended early, in words.
        read: how long the report took to read and to analyse it, in seconds; why it could not, in words.
    """

    task: Task
    seconds: list[float] = field(repr=False)
    cpu_seconds: float
    states: dict[str, int]
    start_mib: float
    peak_mib: float
    file_mib: float | None
    ended: str | None
    read: tuple[float, float] | str | None


class Stopwatch(Silent):
    """Times the trials, and says when they are enough.

    Args:
        trials: that are enough.
        minutes: that are enough.
    """

    def __init__(self, trials: int, minutes: float) -> None:
        self.seconds: list[float] = []
        self.states: dict[str, int] = {}
        self.ended: str | None = None
        self._trials, self._limit = trials, 60.0 * minutes
        self._began = self._before = time.perf_counter()

    def search_started(self, done: int, total: int) -> None:
        """From now on."""
        self._began = self._before = time.perf_counter()

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """Another one."""
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self.states[line.state] = self.states.get(line.state, 0) + 1
        self._before = now
        if len(self.seconds) % 1000 == 0:
            recent = statistics.median(self.seconds[-WINDOW:]) * 1e3
            print(f"  {len(self.seconds):,} trials, {recent:.1f} ms each", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Why the study ends."""
        if not self.enough:
            self.ended = text

    @property
    def enough(self) -> bool:
        """Whether nothing more is to be done."""
        return len(self.seconds) >= self._trials or time.perf_counter() - self._began >= self._limit


def opened(storage: str, folder: Path) -> tuple[optuna.storages.BaseStorage, Path | None]:
    """A new storage, and its file."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    from vnas.search.store import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage == "memory":
        return optuna.storages.InMemoryStorage(), None
    if storage == "journal":
        file = folder / "journal.log"
        return optuna.storages.JournalStorage(JournalFileBackend(str(file))), file
    file = folder / "study.db"
    return open_storage(f"sqlite:///{file}"), file


def driver_on(
    storage: optuna.storages.BaseStorage,
    sampler: Name,
    reporter: Silent,
    *,
    candidates: int,
    seconds: float | None,
    all_gates: bool,
) -> Driver:
    """A study as a command begins it, whose space is the analytic one.

    Args:
        storage: for it.
        sampler: by name.
        reporter: see :class:`Stopwatch`.
        candidates: that are trained to the first rung at most.
        seconds: of the executor's clock, after which it ends.
        all_gates: see :class:`Task`.
    """
    from benchmarks.search_analytic import AnalyticProblem
    from vnas.config import GatesConfig, load_study
    from vnas.search.engine.driver import Driver
    from vnas.search.engine.ledger import Ledger
    from vnas.search.engine.rules import Rules
    from vnas.search.policy.promotion import Limits
    from vnas.search.store import create

    config = load_study("quickstart")
    study = create(storage, config, {"device_kind": "none", "environment": {}, "data": {}}, own=True)
    assert study is not None
    rules = Rules(
        sampler,
        Limits(candidates, None, seconds, config.rungs.spend, config.rungs.last),
        gates=GatesConfig(hopeless=all_gates),
    )
    problem = AnalyticProblem()
    return Driver(problem, Ledger(study, problem.choices, "benchmark"), rules, reporter)


def perform(task: Task) -> Outcome:
    """Run one study in this process, which has run none before."""
    from benchmarks.search_analytic import AnalyticEvaluator
    from vnas.search.tabular.simulated import SimulatedExecutor

    watch = Stopwatch(task.trials, task.minutes)

    class Until(SimulatedExecutor):
        """Its clock jumps past every limit when the trials are enough."""

        def clock(self) -> float:
            return 2.0 * NEVER if watch.enough else super().clock()

    with tempfile.TemporaryDirectory() as folder:
        storage, file = opened(task.storage, Path(folder))
        driver = driver_on(storage, task.sampler, watch, candidates=10**9, seconds=NEVER, all_gates=task.all_gates)
        start = peak_mib()
        began = time.process_time()
        driver.run(Until(AnalyticEvaluator()))
        return Outcome(
            task,
            watch.seconds[: task.trials],
            time.process_time() - began,
            watch.states,
            start,
            peak_mib(),
            None if file is None else file.stat().st_size / 2**20,
            watch.ended or (f"{task.minutes:g} min were over" if len(watch.seconds) < task.trials else None),
            reading(f"sqlite:///{file}") if task.read else None,
        )


def reading(url: str) -> tuple[float, float] | str:
    """Seconds that the report takes to read a study and to analyse it, or why it does not."""
    from vnas.report.analysis import analyse
    from vnas.report.reading import read

    began = time.perf_counter()
    try:
        record = read(url, "quickstart")
        middle = time.perf_counter()
        analyse(record)
    except (VnasError, KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return middle - began, time.perf_counter() - middle


def peak_mib() -> float:
    """Most memory that this process has had, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def apart(work: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
    """What becomes of each task, in a process of its own, one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for task in tasks:
            print(f"{task.sampler}, {task.storage}:", file=sys.stderr, flush=True)
            yield pool.submit(work, task).result()


@dataclass(frozen=True)
class Throughput:
    """What a number of workers did.

    Attributes:
        workers: how many.
        trainings: that they ended.
        seconds: of the study, which begins when all processes have answered once.
    """

    workers: int
    trainings: int
    seconds: float

    @property
    def share(self) -> float:
        """Of what as many sleepers would do."""
        return self.trainings * SLEEP_SECONDS / (self.workers * self.seconds)


class _Counter(Silent):
    """Counts the trainings among the jobs of finished trials."""

    def __init__(self) -> None:
        self.trainings = 0

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """One training a trial here, and none in one that was turned away or repeats another."""
        self.trainings += line.state in ("complete", "stopped")


def throughput(workers: int, sleeps_per_worker: int = SLEEPS_PER_WORKER) -> Throughput:
    """Let processes sleep."""
    from benchmarks.search_analytic import AnalyticEvaluator
    from vnas.search.workers.pool import ProcessPool, WorkerPlan

    counter = _Counter()
    plan = WorkerPlan(partial(AnalyticEvaluator, SLEEP_SECONDS))
    with tempfile.TemporaryDirectory() as folder, ProcessPool([plan] * workers) as pool:
        storage, _ = opened("journal", Path(folder))
        driver = driver_on(
            storage, "random", counter, candidates=sleeps_per_worker * workers, seconds=None, all_gates=False
        )
        start_all(pool, driver)
        began = time.perf_counter()
        driver.run(pool)
        return Throughput(workers, counter.trainings, time.perf_counter() - began)


def start_all(pool: Executor, driver: Driver) -> None:
    """Have every process answer once, so that none starts later."""
    from vnas.search.engine.protocol import Advance, Job

    subject = driver.problem.subject({name: options[0] for name, options in driver.problem.choices.items()})
    for number in range(pool.slots):
        pool.submit(Job(number, "train", subject))
    left = pool.slots
    while left:
        event = pool.wait(60.0)
        left -= event is not None and not isinstance(event, Advance)


def millis(seconds: Sequence[float]) -> str:
    """Median and 95th percentile."""
    median, most = np.percentile(seconds, [50, 95]) * 1e3
    return f"{median:.1f} ({most:.1f})"


def report(outcomes: Sequence[Outcome], pools: Sequence[Throughput]) -> list[str]:
    """The tables, and whether the target is met."""
    rows, notes = [], []
    for outcome in outcomes:
        task, seconds = outcome.task, outcome.seconds
        trained = outcome.states.get("complete", 0) + outcome.states.get("stopped", 0)
        window = min(WINDOW, max(1, len(seconds) // 2))
        cells = [
            *(task.sampler, task.storage, f"{len(seconds):,}", f"{trained:,}"),
            millis(seconds[:window]),
            millis(seconds[-window:]),
            f"{max(seconds):.2f}",
            f"{outcome.cpu_seconds / len(seconds) * 1e3:.1f}",
            f"{outcome.peak_mib:.0f} (+{outcome.peak_mib - outcome.start_mib:.0f})",
            "" if outcome.file_mib is None else f"{outcome.file_mib:.1f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
        name = f"{task.sampler} on {task.storage}"
        if outcome.ended is not None:
            notes.append(f"- {name} ended after {len(seconds):,} trials: {outcome.ended}.")
        if isinstance(outcome.read, str):
            notes.append(f"- The report cannot read {name}: {outcome.read}.")
        elif outcome.read is not None:
            first, second = outcome.read
            notes.append(f"- The report reads {name} in {first:.1f} s and analyses it in {second:.1f} s.")
    return [
        "# What the engine of a study costs",
        "",
        "Wall time from the end of a trial to the end of the next in ms, median (95th percentile) of the first and "
        f"the last {WINDOW} trials (of halves where there are fewer); the work itself costs next to nothing. Trained: "
        "trials in which a net was trained; the others were turned away, put off or repeat another. Memory: peak of "
        "the process in MiB, and how much of it came with the trials.",
        "",
        "| sampler | storage | trials | trained | first, ms | last, ms | longest, s | CPU a trial, ms | memory, MiB "
        "| file, MiB |",
        f"|{'---|' * 10}",
        *rows,
        "",
        *targets(outcomes),
        *notes,
        "",
        *(throughputs(pools) if pools else []),
    ]


def targets(outcomes: Sequence[Outcome]) -> list[str]:
    """Whether each row that has a target meets it."""
    lines = []
    for outcome in outcomes:
        if outcome.task.sampler not in TARGET_SAMPLERS:
            continue
        window = min(WINDOW, max(1, len(outcome.seconds) // 2))
        ends = outcome.seconds[:window], outcome.seconds[-window:]
        worst = max(statistics.median(end) for end in ends) * 1e3
        met = "met" if worst < TARGET_MS else "missed"
        lines.append(
            f"- {outcome.task.sampler} on {outcome.task.storage}: the larger median is {worst:.1f} ms; the target of "
            f"less than {TARGET_MS:g} is {met}."
        )
    return lines


def throughputs(pools: Sequence[Throughput]) -> list[str]:
    """The table of the worker processes."""
    rows = [
        f"| {one.workers} | {one.trainings:,} | {one.trainings / one.seconds:.1f} | {one.workers / SLEEP_SECONDS:.0f} "
        f"| {one.share:.2f} |"
        for one in pools
    ]
    return [
        "## Worker processes",
        "",
        f"Each training sleeps {SLEEP_SECONDS:g} s; random draws, a journal file; processes that run already.",
        "",
        "| workers | trainings | trainings a second | ideal | share of the ideal |",
        f"|{'---|' * 5}",
        *rows,
        "",
    ]


def make_parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="of each study (10000)")
    parser.add_argument("--minutes", type=float, default=10.0, help="that a study takes at most (10)")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS, metavar="NAME", help="(all)")
    parser.add_argument("--storages", nargs="+", default=STORAGES, choices=STORAGES, metavar="NAME", help="(all)")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS, help="worker processes (1 4 16)")
    parser.add_argument("--all-gates", action="store_true", help="turn away nets without hope too")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_scale.md", help="file for the tables")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the studies, and write the tables."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.trials < 2:
        parser.error(f"--trials {options.trials} must be at least 2")
    tasks = [
        Task(
            sampler,
            storage,
            min(options.trials, GP_TRIALS) if sampler == "gp" else options.trials,
            options.minutes,
            options.all_gates,
            read=storage == "sqlite",
        )
        for sampler in options.samplers
        for storage in options.storages
    ]
    began = time.monotonic()
    try:
        outcomes = list(apart(perform, tasks))
        pools = [throughput(workers) for workers in options.workers]
    except VnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; nothing is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    how = f"{(time.monotonic() - began) / 60:.1f} min"
    write(options.out, report(outcomes, pools), how, command_line("benchmarks.search_scale", argv, {}))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
