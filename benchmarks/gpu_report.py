"""Everything that needs a GPU, in one command and under 9 minutes: what is worth most comes first.

    make gpu-report                       with PYTHON=python3, or the project's environment where that lacks torch
    make gpu-report GPU=1
    python -m benchmarks.gpu_report --gpu 0 --out DIR --only known_nets
    python -m benchmarks.gpu_report --minutes 4

It needs no network and no optuna; pydantic only the step ``training`` needs, which fails with a word about it where it
is missing. Each step is a process of its own, so that one that crashes takes no other with it, and this one never
touches the GPU beside them. A step must end when the minutes of the steps up to it are over: what one leaves, the next
one has; one that is still running then is cut, and what it had written stays.

A later study adds its step by adding a row to ``STEPS``: a name, minutes, and a command. In the command ``{python}``,
``{gpu}`` (its index), ``{visible}`` (what CUDA_VISIBLE_DEVICES must be for the step to see that GPU alone, as its
first), ``{out}`` (a folder), ``{seconds}`` and ``{minutes}`` (until the step is cut) are filled in. Its exit code
says whether it passed, and what it prints is kept in ``NAME.log``; it writes its results into ``{out}`` as it goes. The
minutes of all steps must stay below 9 in total.

``SUMMARY.md`` and ``summary.json`` are written at the start and again after every step.

Exit codes: 0 all steps passed, 1 one failed or was cut, 2 usage, 3 no such GPU, 130 interrupted. ``make`` itself ends
with 2 whatever the code was, and only prints it (``make: *** [...: gpu-report] Error 3``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_steps.card import Gpu, clocks_of, probe_gpu
from benchmarks.gpu_steps.running import ROOT, run_step
from benchmarks.gpu_steps.summary import Result, Step, slug, write_summary
from vnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO_DEVICE, EXIT_USAGE, VnasError

LEAST_SECONDS = 5.0
"""A step that would have less is not started."""


STEPS = (
    Step(
        "tests",
        2.6,
        ("env", "CUDA_VISIBLE_DEVICES={visible}", "{python}", "-m", "pytest", "-m", "gpu", "-ra", "-v", "-p",
         "no:cacheprovider", "--junitxml={out}/tests.xml", "tests/gpu"),
    ),
    Step(
        "known_nets",
        2.0,
        ("{python}", "-m", "benchmarks.gpu_steps.known_nets", "--gpu", "{gpu}", "--out", "{out}", "--seconds",
         "{seconds}"),
    ),
    Step(
        "repeatability",
        2.7,
        ("{python}", "benchmarks/profiler_repeatability.py", "--gpu", "{gpu}", "--seconds", "1", "--together",
         "--protocols", "VanillaNet", "triton", "--minutes", "{minutes}",
         "--out", "{out}/repeatability.md", "--answers", "{out}/repeatability.json"),
    ),
    Step(
        "triton",
        0.5,
        ("{python}", "-m", "benchmarks.gpu_steps.triton_agreement", "--gpu", "{gpu}", "--out", "{out}"),
    ),
    Step(
        "compiled",
        0.6,
        ("{python}", "-m", "benchmarks.gpu_steps.known_nets", "--gpu", "{gpu}", "--out", "{out}", "--seconds",
         "{seconds}", "--name", "compiled", "--passes", "compile,compile:fp16,compile_max_autotune", "--alone",
         "--nets", "timm:resnet18", "vanillanet_5", "timm:mobilenetv3_large_100"),
    ),
    Step(
        "training",
        0.5,
        ("{python}", "-m", "benchmarks.gpu_steps.training", "--gpu", "{gpu}", "--out", "{out}", "--seconds",
         "{seconds}"),
    ),
)  # fmt: skip

Probe = Callable[[int], Gpu | str]
Clocks = Callable[[str], str]


def main(
    argv: Sequence[str] | None = None, steps: Sequence[Step] = STEPS, probe: Probe | None = None,
    clocks: Clocks | None = None,
) -> int:  # fmt: skip
    """Run the steps.

    Args:
        argv: of the command line.
        steps: in order.
        probe: the GPU of an index, or why there is none.
        clocks: of a GPU, by its UUID, in words.

    Returns:
        The exit code.
    """
    start = time.monotonic()
    total = sum(step.minutes for step in steps)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_report",
        description="Run everything that needs a GPU, and write it under reports/.",
        epilog="exit codes: 0 all steps passed, 1 one failed or was cut, 2 usage, 3 no such GPU, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="index of the GPU, as torch counts them (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (reports/<name of the GPU>)")
    parser.add_argument("--only", choices=[step.name for step in steps], metavar="STEP", help="one of %(choices)s")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help=f"for all steps; each gets its share ({total:.1f} in all)"
    )
    arguments = parser.parse_args(argv)
    if arguments.minutes is not None and not arguments.minutes > 0:
        print(f"error: --minutes {arguments.minutes} must be more than 0", file=sys.stderr)
        return EXIT_USAGE
    if not (ROOT / "vnas").is_dir():
        print("error: run this from a checkout of vnas", file=sys.stderr)
        return EXIT_USAGE
    gpu = (probe or probe_gpu)(arguments.gpu)
    if isinstance(gpu, str):
        print(f"error: {gpu}", file=sys.stderr)
        return EXIT_NO_DEVICE
    chosen = [step for step in steps if arguments.only in (None, step.name)]
    scale = 1.0 if arguments.minutes is None else arguments.minutes / sum(step.minutes for step in chosen)
    out = (arguments.out or ROOT / "reports" / slug(gpu.name)).absolute()
    out.mkdir(parents=True, exist_ok=True)
    return run_steps(chosen, scale, gpu, arguments.gpu, out, start, clocks or clocks_of)


def run_steps(
    steps: Sequence[Step], scale: float, gpu: Gpu, index: int, out: Path, start: float, clocks: Clocks
) -> int:
    """One step after the other, each with its result written before the next begins; returns the exit code."""
    results = {step.name: Result(step.name) for step in steps}
    deadline = start

    def record(result: Result) -> None:
        results[result.name] = result
        write_summary(out, gpu, steps, list(results.values()), time.monotonic() - start)
        print(f"{result.name}: {result.outcome}{_took(result.seconds)}", flush=True)

    for step in steps:
        deadline += step.minutes * 60.0 * scale
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS * min(scale, 1.0):
            record(Result(step.name, "not run"))
            continue
        before = clocks(gpu.uuid)
        record(Result(step.name, "running", clocks=(before,)))
        began = time.monotonic()
        filled = {"python": sys.executable, "gpu": str(index), "out": str(out), "seconds": f"{left:.0f}"}
        filled |= {"minutes": f"{left / 60:.2f}", "visible": visible_alone(index, os.environ)}
        command = [part.format_map(filled) for part in step.command]
        outcome, exit_code = run_step(command, out / f"{step.name}.log", left)
        seconds = time.monotonic() - began
        record(Result(step.name, outcome, seconds, exit_code, (before, clocks(gpu.uuid))))
        if outcome == "interrupted":
            return EXIT_INTERRUPTED
    print(f"written: {out / 'SUMMARY.md'}")
    return EXIT_DONE if all(result.outcome == "passed" for result in results.values()) else EXIT_FAILED


def visible_alone(index: int, environment: Mapping[str, str]) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process to see one GPU only, as its first.

    Args:
        index: of the GPU, as torch counts them in this process.
        environment: of this process; its CUDA_VISIBLE_DEVICES may hold indices or UUIDs, which torch counts in order.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES", "").strip()
    return given.split(",")[index].strip() if given else str(index)


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f" after {seconds:.0f} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
