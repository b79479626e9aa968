"""One run of the command: check all that was typed, measure, show, write, compare."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import vnas.profiler.runtimes as runtimes
from vnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError, VnasError
from vnas.profiler import figure
from vnas.profiler.comparison import compare, comparison_line, could_match, pair
from vnas.profiler.devices import resolve_device
from vnas.profiler.environment import cpu_kind
from vnas.profiler.layer_table import LayerBreakdown, breakdown_columns, breakdown_rows, check_line
from vnas.profiler.lines import aligned, measurement_line
from vnas.profiler.measurement import Measurement
from vnas.profiler.plan import Cell, Rules
from vnas.profiler.replication import Standing, replicate
from vnas.profiler.results import Entry, Layers, layers_path, read_json, write_csv, write_json, write_layers_csv
from vnas.profiler.targets import Target, find_target, materialise
from vnas.profiler.terminal import Terminal, device_line, entry_label, grouped, summary

if TYPE_CHECKING:
    import torch

ENERGY_SECONDS = 5.0
"""Fifty steps of a GPU's counter, which leaves 2 % open. Where there is none, that is said at once."""

MOST_LAYERS = 30
"""Rows of the table by layer; the rest is summed."""

FALSE_ALARM = 0.05
"""Chance that --fail-on stops a run in which nothing changed, all nets together, at most."""


class Session:
    """What was asked for, and what came of it so far.

    Args:
        arguments: as the command's parser gives them.
        terminal: is shown everything.

    Raises:
        UsageError: something that was typed cannot be used.
        DeviceError: there is no such device.
    """

    def __init__(self, arguments: argparse.Namespace, terminal: Terminal) -> None:
        self._asked = arguments
        self._terminal = terminal
        self._entries: list[Entry] = []
        self._shown: set[int] = set()
        self._complete = 0
        self._exit_code = EXIT_DONE
        if arguments.fail_on and arguments.compare is None:
            raise UsageError(f"--fail-on {arguments.fail_on} needs --compare OLD.json, the results to compare with")
        for option in ("json", "csv", "figure"):
            _check_writable(f"--{option}", getattr(arguments, option))
        if arguments.layers and arguments.csv is not None:
            _check_beside(arguments.csv)
        if arguments.figure is not None:
            figure.check_suffix(arguments.figure)
        self._device = resolve_device(arguments.gpu, arguments.device)
        self._old = _read_old(arguments.compare, self._device)
        for runtime in arguments.runtime:
            for precision in arguments.precision:
                runtimes.check(runtime, precision, self._device.type)
        targets = [find_target(net, arguments.image_size) for net in arguments.nets]
        rows = [(target, r, p) for target in targets for r in arguments.runtime for p in arguments.precision]
        self._targets = targets
        self._of_cells = [target for target, _, _ in rows]
        self._cells = [Cell(target.name, arguments.image_size, arguments.batch, r, p) for target, r, p in rows]
        if self._old is not None:
            self._check_common(self._old)

    def run(self) -> int:
        """Measure and show; returns the exit code."""
        asked, terminal = self._asked, self._terminal
        terminal.say(device_line(self._device, asked.threads))
        try:
            replicate(
                self._cells,
                self._device,
                processes=asked.processes,
                rules=self._rules(),
                seed=asked.seed,
                progress=terminal.progress(asked.processes),
                on_parts=self._take,
            )
        except KeyboardInterrupt:
            self._close()
            terminal.complain(self._interrupted())
            return EXIT_INTERRUPTED
        self._close()
        if self._old is not None:
            self._compare(self._old)
        if asked.layers:
            self._layers()
        return self._exit_code

    def _check_common(self, old: Sequence[Entry]) -> None:
        """There is something to compare with, as far as can be told before nets that bring their inputs are built."""
        for target, cell in zip(self._of_cells, self._cells, strict=True):
            shape = (cell.batch, target.in_chans, target.image_size, target.image_size)
            size, shapes = (None, None) if target.form == "callable" else (target.image_size, (shape,))
            wanted = (target.name, target.form, size, cell.runtime, cell.precision, shapes)
            if any(could_match(entry, wanted) for entry in old):
                return
        raise UsageError(self._nothing_common())

    def _nothing_common(self) -> str:
        return (
            f"--compare {self._asked.compare} has none of these nets with these runtimes, precisions and input shapes; "
            "measure the same ones"
        )

    def _rules(self) -> Rules:
        asked = self._asked
        return Rules(
            target_relative=asked.target,
            min_seconds=min(0.5, asked.max_seconds),
            max_seconds=asked.max_seconds,
            energy_seconds=ENERGY_SECONDS if asked.energy_seconds is None else asked.energy_seconds,
            threads=asked.threads,
            patience_seconds=asked.max_seconds if asked.patience is None else asked.patience,
        )

    def _take(self, standings: Sequence[Standing]) -> None:
        """After every worker: keep what there is, and show what is complete."""
        entries = [
            None if not isinstance(standing.outcome, Measurement) else _entry(target, standing.outcome)
            for target, standing in zip(self._of_cells, standings, strict=True)
        ]
        self._entries = [entry for entry in entries if entry is not None]
        if self._asked.json is not None and self._entries:
            write_json(self._asked.json, self._entries)
        for place, (standing, entry) in enumerate(zip(standings, entries, strict=True)):
            if not standing.complete or place in self._shown:
                continue
            self._shown.add(place)
            if entry is not None:
                self._complete += 1
                self._terminal.say(measurement_line(entry.net, entry.form, entry.measurement))
            elif isinstance(standing.outcome, VnasError):
                self._fail(standing.outcome.exit_code)
                self._terminal.complain(f"error: {self._cell_label(place)}: {standing.outcome}")

    def _close(self) -> None:
        """The table and the files, of all that was measured."""
        if not self._entries:
            return
        self._terminal.say(*summary(self._entries))
        if not all(entry.measurement.valid for entry in self._entries):
            self._fail(EXIT_FAILED)
        if self._asked.csv is not None:
            write_csv(self._asked.csv, self._entries)
        if self._asked.figure is not None:
            figure.draw(self._entries, self._asked.figure)

    def _interrupted(self) -> str:
        files = [str(path) for path in (self._asked.json, self._asked.csv, self._asked.figure) if path is not None]
        kept = f"; what there is, is in {', '.join(files)}" if files and self._entries else ""
        partly = len(self._entries) - self._complete
        more = f", {partly} in fewer than {self._asked.processes} processes" if partly else ""
        return f"interrupted: {self._complete} of {len(self._cells)} measurements were complete{more}{kept}"

    def _compare(self, old: Sequence[Entry]) -> None:
        pairs, only_new = pair(old, self._entries)
        level = 1.0 - FALSE_ALARM / max(len(pairs), 1) if self._asked.fail_on else 0.95
        found = [compare(before, after, level=level) for before, after in pairs]
        said = [
            (entry_label(after, self._entries), note)
            for (_, after), comparison in zip(pairs, found, strict=True)
            for note in comparison.notes
        ]
        if found:
            self._terminal.say(f"compared with {self._asked.compare}, intervals of {100 * level:.3g} %:")
            self._terminal.say(*map(comparison_line, found), *grouped("note", said, len(found)))
        for entry in only_new:
            self._terminal.say(f"not in {self._asked.compare}: {entry_label(entry, self._entries)}")
        if self._entries and not found:
            self._fail(UsageError.exit_code)
            self._terminal.complain(f"error: {self._nothing_common()}")
        if any(comparison.verdict == self._asked.fail_on for comparison in found):
            self._fail(EXIT_FAILED)

    def _layers(self) -> None:
        from vnas.profiler.lock import device_lock, lock_key

        found: list[Layers] = []
        waiting = self._terminal.complain
        with device_lock(lock_key(self._device), on_wait=waiting), _threads(self._asked.threads):
            for target in self._targets:
                try:
                    layers = Layers(target.name, target.form, self._breakdown(target))
                except VnasError as error:
                    self._fail(error.exit_code)
                    self._terminal.complain(f"error: {target.name}: layers: {error}")
                else:
                    found.append(layers)
                    self._terminal.say(*_layer_lines(layers))
        if found and self._asked.json is not None:
            write_json(self._asked.json, self._entries, found)
        if found and self._asked.csv is not None:
            write_layers_csv(layers_path(self._asked.csv), found)

    def _breakdown(self, target: Target) -> LayerBreakdown:
        import torch

        from vnas.profiler.layers import layer_breakdown

        torch.manual_seed(self._asked.seed)
        net, inputs = materialise(target, self._asked.batch, self._device)
        if not isinstance(net, torch.nn.Module):
            raise UsageError(f"it is a {type(net).__name__}; only a module has layers")
        return layer_breakdown(net, *inputs, device=self._device)

    def _cell_label(self, place: int) -> str:
        cell = self._cells[place]
        if len(self._targets) == len(self._cells):
            return cell.net
        return " ".join(filter(None, (cell.net, cell.runtime, cell.precision)))

    def _fail(self, code: int) -> None:
        self._exit_code = self._exit_code or code


def _entry(target: Target, result: Measurement) -> Entry:
    size = target.image_size
    takes_images = any(len(shape) == 4 and shape[-2:] == (size, size) for shape in result.input_shapes)
    return Entry(target.name, target.form, size if takes_images else None, result)


def _layer_lines(layers: Layers) -> list[str]:
    found = layers.breakdown
    table = aligned(breakdown_columns(found), breakdown_rows(found, MOST_LAYERS))
    notes = (f"note: {note}" for note in found.notes)
    return ["", f"{layers.net} {layers.form} by layer, eager", *table, check_line(found), *notes]


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_old(path: Path | None, device: torch.device) -> list[Entry] | None:
    """The results to compare with: read before anything is measured."""
    if path is None:
        return None
    import torch

    old = read_json(path)
    here = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_kind()
    others = sorted({entry.measurement.environment.device_kind for entry in old} - {here})
    if others:
        raise UsageError(
            f"--compare {path}: it was measured on {', '.join(map(repr, others))}, and this is {here!r}: the latency "
            "of another device says nothing of the net; measure both on one kind of device"
        )
    return old


def _check_beside(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise UsageError(f"--csv {path} is no file, and --layers writes one beside it; give the name of a file")


def _check_writable(option: str, path: Path | None) -> None:
    """Said before measuring for minutes, not after."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; give the name of a file, e.g. {option} {path / 'latency'}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"{option} {path}: the folder {path.absolute().parent} is not there or not writable")
