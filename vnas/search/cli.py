"""The command line of the search. Imports nothing heavy until the arguments are known to be good."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence

from vnas.errors import EXIT_FAILED, EXIT_INTERRUPTED, VnasError
from vnas.search.interrupts import installed

EPILOG = """\
examples:
  python -m vnas.search                                   the quickstart study on embedded digits
  python -m vnas.search --gpu 0 --study cifar10 --data torch/cifar10 --time 2h
  python -m vnas.search --gpu 0,1,2,3 --study cifar10     a worker a GPU
  python -m vnas.search --resume                          go on with an interrupted run

exit codes: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted (go on with --resume)
"""


def duration(text: str) -> float:
    """Minutes from ``90s``, ``30m``, ``2h``, ``1h30m`` or a plain number of minutes."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)(?:m|$))?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if match is None or not any(match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write for example 90s, 30m or 2h")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    total = 60 * hours + minutes + seconds / 60
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all; write for example 30m")
    return total


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive_float(text: str) -> float:
    """A number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def parser() -> argparse.ArgumentParser:
    """The flags of ``python -m vnas.search``."""
    result = argparse.ArgumentParser(
        prog="python -m vnas.search",
        description="Search for the nets that are fastest and most accurate on a device, and report their front.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--study", metavar="NAME|FILE", help="what to run (default: quickstart)")
    device = result.add_mutually_exclusive_group()
    device.add_argument("--gpu", metavar="N[,N..]", help="the GPUs to measure and train on, a worker each")
    device.add_argument("--device", metavar="NAME", help="cpu, or cuda:N (default: the first GPU, else the CPU)")
    result.add_argument(
        "--data", metavar="SOURCE", help="digits, a folder or .tar of class folders, torch/cifar10, hfds/..., wds/..."
    )
    result.add_argument("--trials", type=positive_int, metavar="N", help="distinct candidates to train")
    result.add_argument("--time", type=duration, metavar="30m", help="ask for no more candidates after this long")
    result.add_argument(
        "--latency-budget", type=positive_float, metavar="MS", help="do not train a net that is slower than this"
    )
    result.add_argument(
        "--workers",
        type=count,
        metavar="K",
        help="on the CPU: processes that share its cores (default: 1); 0 to work in this process",
    )
    result.add_argument(
        "--storage",
        metavar="URL",
        help="an Optuna storage (default: study.db in the run directory); with a server's, the same command on "
        "several machines works on one study",
    )
    result.add_argument("--out", metavar="DIR", help="the run directory (default: reports/STUDY)")
    result.add_argument("--seed", type=int, metavar="N", help="seed of the sampler and of every training run")
    result.add_argument("--resume", action="store_true", help="go on with the study in the run directory")
    result.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the study, e.g. training.epochs=5"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted.
    """
    args = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the arrows of a description still gets the rest
    try:
        with installed():
            from vnas.search.command import run

            return run(args)
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted before the study began", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
