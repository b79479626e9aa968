"""What the command shows: the device, where it is, a line a net, tables, and the notes under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from vnas.profiler.lines import aligned, columns, measurement_row
from vnas.profiler.protocol import Progress
from vnas.profiler.results import Entry
from vnas.profiler.screen import Screen

if TYPE_CHECKING:
    import torch


class Terminal(Screen):
    """What the command shows while it measures."""

    def progress(self, processes: int) -> Callable[[int, Progress], None]:
        """For ``replicate``; where nobody watches, only waiting is told, in lines that stay."""

        def report(process: int, where: Progress) -> None:
            text = progress_text(process, processes, where)
            if self.watched:
                self.overwrite(text)
            elif where.waiting is not None:
                self.complain(text)

        return report


def progress_text(process: int, processes: int, where: Progress) -> str:
    """Process, net, phase, and the median so far; or whom it waits for."""
    if where.waiting is not None:
        return f"process {process + 1} of {processes}: {where.waiting}"
    text = f"process {process + 1} of {processes}: {f'{where.name} {where.phase}'.strip()}"
    if where.median_ms is None or where.relative_width is None:
        return text
    return f"{text}, {where.samples} samples, {where.median_ms:.3f} ms, interval {where.relative_width:.1%}"


def device_line(device: torch.device, threads: int | None) -> str:
    """Name, kind and identity of the device; on the CPU how many threads will work."""
    import torch

    from vnas.profiler.devices import cuda_uuid
    from vnas.profiler.environment import cpu_kind

    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)}, {cuda_uuid(device.index)})"
    return f"device: cpu ({cpu_kind()}; torch threads: {threads or torch.get_num_threads()})"


def summary(entries: Sequence[Entry]) -> list[str]:
    """The table, and under it each note with the nets that it is about."""
    names = columns([entry.measurement for entry in entries])
    rows = [measurement_row(entry.net, entry.form, entry.measurement, names) for entry in entries]
    notes = [(entry_label(entry, entries), note) for entry in entries for note in entry.measurement.notes]
    return ["", *aligned(names, rows), "", *grouped("note", notes, len(entries))]


def entry_label(entry: Entry, among: Sequence[Entry]) -> str:
    """The net's name, with its runtime and precision where others of that name are ``among`` the entries."""
    if sum(other.net == entry.net for other in among) == 1:
        return entry.net
    return " ".join(filter(None, (entry.net, entry.measurement.runtime, entry.measurement.precision)))


def grouped(word: str, said: Iterable[tuple[str, str]], everybody: int) -> list[str]:
    """One line for each thing said, with the names it was said of; ``all`` where that is everybody."""
    about: dict[str, list[str]] = {}
    for name, text in said:
        about.setdefault(text, []).append(name)
    return [
        f"{word} ({'all' if len(names) == everybody > 1 else ', '.join(names)}): {text}"
        for text, names in about.items()
    ]
