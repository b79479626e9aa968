"""What the steps of a GPU report are told on their command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def step_parser(name: str) -> argparse.ArgumentParser:
    """The arguments that every step has.

    Args:
        name: of the step's module.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu_steps.{name}", allow_abbrev=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpu", type=int)
    where.add_argument("--device", help="cpu, to try the step out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="until the step must be done")
    return parser
