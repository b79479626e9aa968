"""What the steps of a GPU report became, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_steps.card import Gpu
from benchmarks.gpu_steps.running import Outcome


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        name: of its log.
        minutes: that it adds to the time by which it must be done.
        command: with the places to be filled in.
    """

    name: str
    minutes: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of a step.

    Attributes:
        name: of the step.
        outcome: ``cut`` ran out of time; ``not run`` had none left.
        seconds: it took; None until it has ended.
        exit_code: of its process; None without one.
        clocks: of the GPU before and after it.
    """

    name: str
    outcome: Outcome = "waiting"
    seconds: float | None = None
    exit_code: int | None = None
    clocks: tuple[str, ...] = ()


def slug(name: str) -> str:
    """The name of a GPU as the name of a folder: ``NVIDIA H100 80GB HBM3`` is ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def write_summary(out: Path, gpu: Gpu, steps: Sequence[Step], results: Sequence[Result], seconds: float) -> None:
    """``SUMMARY.md`` for people, ``summary.json`` for programs; whole or not at all."""
    told = {key: value for key, value in gpu.environment.items() if value is not None}
    lines = [
        f"# {gpu.name}",
        "",
        f"{seconds:.0f} s so far. Commands, from the root of the checkout:",
        "",
        *(f"- {step.name}: `{' '.join(step.command)}`" for step in steps),
        "",
        "| step | outcome | seconds | exit code | GPU before | GPU after |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        before, after = (*result.clocks, "", "")[:2]
        took = "" if result.seconds is None else f"{result.seconds:.0f}"
        code = "" if result.exit_code is None else str(result.exit_code)
        lines.append(
            f"| [{result.name}]({result.name}.log) | {result.outcome} | {took} | {code} | {before} | {after} |"
        )
    lines += ["", "| environment | |", "|---|---|", *(f"| {key} | {value} |" for key, value in told.items()), ""]
    plain = {
        "gpu": gpu.name,
        "environment": dict(gpu.environment),
        "seconds": seconds,
        "steps": [dataclasses.asdict(result) for result in results],
    }
    for name, text in (("SUMMARY.md", "\n".join(lines)), ("summary.json", json.dumps(plain, indent=1) + "\n")):
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)
