"""``vnas COMMAND ...``: the same commands as ``python -m vnas.COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "search": ("vnas.search.cli", "find the Pareto front of a search space on a device"),
    "train": ("vnas.training.command.cli", "train one net, briefly or in full"),
    "profile": ("vnas.profiler.cli", "measure the latency of any net"),
    "report": ("vnas.report.cli", "render the report of a run again"),
}

EPILOG = """\
examples:
  vnas search                            the quickstart study on embedded digits
  vnas train vanillanet_6 --image-size 32 --data digits --epochs 2
  vnas profile vanillanet_5 --device cpu
  vnas report reports/quickstart
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the command they name.

    Returns:
        The command's exit code.
    """
    parser = argparse.ArgumentParser(
        prog="vnas",
        description="Which net is fastest and most accurate on this device?",
        epilog="commands:\n" + "".join(f"  {name:<10}{what}\n" for name, (_, what) in COMMANDS.items()) + "\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help=", ".join(COMMANDS))
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = parser.parse_args(arguments[:1]).command
    module = importlib.import_module(COMMANDS[command][0])
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
