"""What a person at the terminal sees: the device first, one line a trial, the time left, the front at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from vnas.profiler.screen import duration
from vnas.report.numbers import count, measured, number_word, percent

if TYPE_CHECKING:
    from types import TracebackType

    from vnas.profiler import Environment
    from vnas.report import Paths, Record
    from vnas.search.engine.protocol import Subject
    from vnas.search.engine.recovery import Recovered
    from vnas.search.engine.reporting import TrialLine
    from vnas.search.front import Retrained
    from vnas.training import Data


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on, as with ``| head``: stop like an interrupt, with everything stored."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt


class Terminal:
    """The reporter of ``python -m vnas.search``; a context manager around the work that has a progress bar."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.console = console or _Console(highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.1f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=1, left="", visible=False)
        self._put_off = 0
        self._begun_with, self._began_at = 0, clock()
        self._shares: dict[int, float] = {}
        self._images: Mapping[Any, int] = {}
        self._done = 0
        self._total = 0
        self._of = ""
        self._began = time.monotonic()

    def __enter__(self) -> Terminal:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def device(self, environment: Environment, name: str) -> None:
        """The first line: where everything will run."""
        threads = f", {number_word(environment.threads, 'thread')}" if name == "cpu" else ""
        self._print(f"device: {name} ({environment.device_kind}{threads})")

    def data(self, data: Data) -> None:
        """What is trained on, and how it was split."""
        self._images = data.counts
        counts = ", ".join(f"{count} {split}" for split, count in data.counts.items())
        self._print(f"data: {data.source}: {data.num_classes} classes, {counts} images")

    def resumed(self, finished: int, recovered: Recovered, changes: tuple[str, ...]) -> None:
        """What a run that goes on starts from."""
        again = f", {recovered.requeued} interrupted and queued again" if recovered.requeued else ""
        again += f", {recovered.completed} killed after the last answer and complete" if recovered.completed else ""
        again += f", {recovered.stopped} killed above a rung and stopped there" if recovered.stopped else ""
        self._print(f"resuming: {finished} finished trials{again}")
        if changes:
            self.note(f"since the study began: {', '.join(changes)}; latencies may not compare exactly")

    def workers(self, names: Sequence[str]) -> None:
        """Who works."""
        self._print(f"workers: {', '.join(names)}")

    def note(self, text: str) -> None:
        """A line about something out of the ordinary."""
        self._print(f"note: {text}")

    def search_started(self, done: int, total: int) -> None:
        """The loop begins."""
        self._of = " of the search"
        self._start("search", done, total)

    def trial_started(self, number: int, subject: Subject) -> None:
        """Name the candidate at work in the bar."""
        self._bar.update(self._task, description=escape(f"trial {number}"))

    def advanced(self, number: int, share: float) -> None:
        """Move the bar within the training runs that are under way."""
        self._shares[number] = share
        self._bar.update(self._task, completed=self._done + min(sum(self._shares.values()), self._total - self._done))

    def trial_finished(self, line: TrialLine, done: int, total: int) -> None:
        """One line a trial."""
        self._shares.pop(line.number, None)
        self._advance(done, total)
        if line.state == "put off":  # nothing was found out about it but its latency; there may be many
            self._put_off += 1
            return
        head = f"trial {line.number:>3}"
        if line.state in ("complete", "stopped") and line.latency_ms is not None:
            note = f"   ({line.note})" if line.note else ""
            body = (
                f"{self._percent(line.val_top1, 'validation')} % val   {measured(*line.latency_ms) + ' ms':<28} "
                f"depth {line.depth}   {line.seconds:5.1f} s   {line.description}{note}"
            )
        else:
            body = f"{line.state}: {line.note}   {line.description}"
        self._print(f"{head}   {body}{self._left()}")

    def front_started(self, nets: int, runs: int, done: int) -> None:
        """The search is over; the front is trained anew."""
        if self._put_off:
            times = number_word(self._put_off, "time")
            self._print(f"{times} a candidate was measured and put off for one that promised more")
        self._print(
            f"front: {number_word(nets, 'net')}, trained anew with fresh seeds and judged on the test set "
            f"({number_word(runs, 'run')})"
        )
        self._of = ""
        self._start("front", done, runs)

    def retrained(self, result: Retrained) -> None:
        """One line a run."""
        self._shares.pop(result.run, None)
        self._advance(self._done + 1, self._total)
        self._print(
            f"front   trial {result.net.trial:>3} run {result.repeat + 1}   "
            f"{self._percent(result.val_top1, 'validation')} % val   "
            f"{self._percent(result.test_top1, 'test')} % test   {result.seconds:5.1f} s{self._left()}"
        )

    def interrupted(self, resume: str) -> None:
        """How to go on."""
        self._print(f"interrupted: every completed trial is stored. Go on with\n  {resume}")

    def finished(self, record: Record, paths: Paths) -> None:
        """The front as a table, and where the report is."""
        rows = pd.read_csv(paths.front_csv)
        if len(rows):
            table = Table(
                box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left", caption_justify="left"
            )
            table.title = f"Pareto front of {record.study.name}: fused nets, batch 1, {record.device}"
            table.add_column("net", no_wrap=True, min_width=3)
            for heading in ("latency ms", "test top-1 %", "val %", "params", "depth"):
                table.add_column(heading, justify="right", no_wrap=True)
            for row in rows.to_dict("records"):
                table.add_row(
                    row["net"],
                    measured(row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"]),
                    _accuracy(row),
                    f"{row['val_top1']:.1f}",
                    count(row["params"]),
                    str(row["depth"]),
                )
            table.caption = "[95 % intervals]: of the latency in this process, of the accuracy over seeds"
            self.console.print()
            self.console.print(table)
            for row in rows.to_dict("records"):
                self._print(f"{row['net']:<3} {row['description']}   (trial {row['trial']})")
        else:
            self._print("no trial was completed: there is no front. The reasons are in the report")
        self._print(f"report: {paths.report_html}   ({duration(time.monotonic() - self._began)})")

    def _print(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)

    def _percent(self, value: float | None, split: str) -> str:
        return f"{percent(value, self._images.get(split)):>6}"

    def _start(self, what: str, done: int, total: int) -> None:
        self._began_at, self._begun_with, self._done, self._total = self._clock(), done, done, total
        self._shares.clear()
        self._bar.update(self._task, description=what, completed=done, total=total, left="", visible=True)

    def _advance(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._bar.update(self._task, completed=done, total=total, left=self._left().strip(" ()"))

    def _left(self) -> str:
        came = self._done - self._begun_with
        if came <= 0 or self._done >= self._total:
            return ""
        left = (self._clock() - self._began_at) / came * (self._total - self._done)
        return f"   ({self._done}/{self._total}, about {duration(left)} left{self._of})"


def _accuracy(row: Mapping[Hashable, object]) -> str:
    mean, low, high = row["test_top1_mean"], row["test_top1_low"], row["test_top1_high"]
    if not isinstance(mean, float) or mean != mean:
        return "-"
    if not isinstance(low, float) or low != low or not isinstance(high, float):
        return f"{mean:.1f}"
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
