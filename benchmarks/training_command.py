"""The command line of the benchmarks that are made of training runs, and the end of their reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report_file import command_line, parser_of, write
from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, VnasError


def make_parser(doc: str, out: Path, images: int) -> argparse.ArgumentParser:
    """The arguments that they share.

    Args:
        doc: docstring of the script.
        out: where its report lies.
        images: by default, to train on in each run.
    """
    parser = parser_of(doc)
    parser.add_argument("--data", required=True, help="folder or .tar of CIFAR-10, as for vnas.training")
    parser.add_argument("--images", type=int, default=images, help=f"training images a run ({images})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm on each net (3)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each (1)")
    parser.add_argument("--out", type=Path, default=out, help="file for the tables")
    parser.add_argument("--answers", type=Path, help="file for every run, a line of JSON each (beside --out)")
    return parser


def follow(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    run: Callable[[argparse.Namespace], Sequence[str]],
    module: str,
) -> int:
    """Parse, run, write the report and print it, with the machine, the date and the command at its end.

    Args:
        parser: see :func:`make_parser`.
        argv: what was typed.
        run: gives the lines of the report.
        module: its name, for the command.
    """
    options = parser.parse_args(argv)
    for name in ("images", "seeds", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} must be at least 1")
    options.answers = options.answers or options.out.with_suffix(".jsonl")
    try:
        lines = run(options)
    except VnasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the runs that are missing", file=sys.stderr)
        return EXIT_INTERRUPTED
    how = f"{options.jobs} process(es) of one thread"
    write(options.out, lines, how, command_line(module, argv, {"--data": "CIFAR10"}))
    return EXIT_DONE
