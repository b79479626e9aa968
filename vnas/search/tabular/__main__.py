"""``python -m vnas.search.tabular TABLE.toml``: how a sampler does on a table of known answers."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, VnasError
from vnas.search.cli import positive_float, positive_int

SAMPLERS = ("local", "tpe", "gp", "nsga2", "random", "grid")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    result = argparse.ArgumentParser(
        prog="python -m vnas.search.tabular",
        description="Search a table of known answers with a simulated clock, seed after seed, and say what share of "
        "its hypervolume was found.",
        allow_abbrev=False,
    )
    result.add_argument("table", type=Path, help="a TOML file that says what the columns are")
    result.add_argument("--csv", type=Path, metavar="FILE", help="the table, where the TOML file does not name it")
    result.add_argument("--epochs", type=positive_float, default=2000.0, metavar="N", help="to spend (2000)")
    result.add_argument("--sampler", choices=SAMPLERS, default="local", help="(local)")
    result.add_argument("--seeds", type=positive_int, default=5, metavar="N", help="searches (5)")
    result.add_argument("--latency-budget", type=positive_float, metavar="MS", help="the most latency")
    result.add_argument("--workers", type=positive_int, default=1, metavar="K", help="simulated (1)")
    result.add_argument("--anytime", action="store_true", help="send nets on as the search goes, not at its end")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    from vnas.search.tabular.running import search_table
    from vnas.search.tabular.table import load

    table = load(args.table, args.csv)
    shares = []
    for seed in range(args.seeds):
        found = search_table(
            table,
            epochs=args.epochs,
            sampler=args.sampler,
            seed=seed,
            budget_ms=args.latency_budget,
            last=not args.anytime,
            slots=args.workers,
        )
        shares.append(found.share(table, args.epochs, args.latency_budget))
        print(  # noqa: T201
            f"seed {seed}: {shares[-1]:.4f} of the hypervolume; {found.trained} nets trained, {len(found.rows)} of "
            f"them in full, {found.measured} measured"
        )
    print(f"mean {statistics.fmean(shares):.4f}, worst {min(shares):.4f}")  # noqa: T201
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
