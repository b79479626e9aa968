"""The command line of a benchmark, and the file that its tables are written to: the machine, the date, the command."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script."""
    first, _, rest = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        description=first, epilog=rest.strip("\n"), formatter_class=argparse.RawDescriptionHelpFormatter
    )


def command_line(module: str, arguments: Sequence[str] | None, places: Mapping[str, str]) -> str:
    """The command as another machine would type it: without the places where files lie and go here.

    Args:
        module: its name.
        arguments: what was typed; those of this process without it.
        places: what stands for the value of a flag that names a place.
    """
    from benchmarks.profiler_repeatability import without_files

    typed = without_files(sys.argv[1:] if arguments is None else arguments)
    kept = [places.get(prior, one) for prior, one in zip(["", *typed], typed, strict=False)]
    return " ".join(["python -m", module, *kept])


def write(out: Path, lines: Sequence[str], how: str, command: str) -> None:
    """Write a report and print it, with the machine, what is to be said of the run, the date and the command."""
    from benchmarks.profiler_repeatability import machine

    day = datetime.datetime.now(datetime.UTC).date()
    text = "\n".join([*lines, "", f"{machine('cpu')}; {how}, {day}. Command: `{command}`", ""])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)
