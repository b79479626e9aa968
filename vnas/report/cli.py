"""``python -m vnas.report``: the report of a run, rendered again from its storage."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError, VnasError

_EPILOG = """\
examples:
  python -m vnas.report reports/quickstart
  python -m vnas.report reports/quickstart --out reports/again
  python -m vnas.report sqlite:///reports/quickstart/study.db --study quickstart
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vnas.report",
        description="Render trials.csv, front.csv, report.md, report.html and the figures from a study's storage.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="RUN_DIR | STORAGE_URL", help="a run directory, or a storage as in --storage")
    parser.add_argument("--study", metavar="NAME", help="name of the study; needed with a STORAGE_URL")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to (default: RUN_DIR itself, or reports/NAME for a STORAGE_URL)"
    )
    return parser


def _run(source: str, study: str | None, out: Path | None) -> None:
    from vnas.report.output import render
    from vnas.report.reading import read, read_run

    if "://" in source:
        if study is None:
            raise UsageError("a STORAGE_URL may hold many studies; say which with --study NAME")
        record = read(source, study)
        folder = out or Path("reports") / record.study.name
    else:
        folder = out or Path(source)
        record = read_run(source, study)
    paths = render(record, folder)
    for path in (paths.report_html, paths.report_md, paths.trials_csv, paths.front_csv):
        sys.stdout.write(f"{path}\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: what was typed after the command's name; ``sys.argv`` without it.

    Returns:
        The exit code: 0 done, 2 for what was typed, 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments.source, arguments.study, arguments.out)
    except VnasError as error:
        sys.stderr.write(f"vnas report: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_DONE
