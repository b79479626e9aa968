"""How far apart the answers of one protocol lie when it is asked again, and whether its interval says so.

    python benchmarks/profiler_repeatability.py                  about 20 minutes on two cores
    python benchmarks/profiler_repeatability.py --gpu 0 --protocols VanillaNet triton
    python benchmarks/profiler_repeatability.py --seconds 3 --repeats 3 --out rough.md

Each protocol measures each net in fresh processes, ``--repeats`` times, in shuffled order, and is given the same
seconds of measuring a net. vnas is one call for all nets (three fresh processes that measure them in interleaved
rounds, a third of the seconds each); the others measure one net in one process, as their users do (with --together
all nets one after the other in one process, which saves half of the time on a GPU):

    timm            benchmark.py: 10 warm-up calls, mean; of the 40 calls it makes by default, and of the seconds
    VanillaNet      the official speed test: 5 warm-up calls, mean of 1,000 calls or as many as the seconds hold
    torch           torch.utils.benchmark's blocked_autorange, median
    triton          do_bench, median (GPU)

Spread is the largest over the smallest of a protocol's answers, less 1. "Held" is the share of ordered pairs of
answers in which the interval that comes with one contains the other: for vnas the interval it states, for a mean
the usual mean +- 1.96 standard errors of its own samples, for a median its order-statistic interval. Fewer than three
answers say neither: give more --minutes, or fewer --protocols.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETS = ("timm:resnet18", "timm:mobilenetv3_large_100", "vanillanet_5")
IMAGE_SIZE = 224
OURS = "vnas"
ENOUGH_ANSWERS = 3
"""Of a protocol, for their spread to say anything."""

TOO_FEW = "too few answers"

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Answer:
    """What one protocol said once of one net, in milliseconds."""

    protocol: str
    net: str
    ms: float
    low_ms: float
    high_ms: float


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark, or one child of it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", type=int, help="index of the GPU; by default the CPU is measured")
    parser.add_argument("--seconds", type=float, default=9.0, help="of measuring a net, for each protocol (9)")
    parser.add_argument("--repeats", type=int, default=7, help="answers of each protocol (7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="start no repeat that would not end within so long")
    parser.add_argument("--together", action="store_true", help="one process a protocol, not one a net")
    parser.add_argument("--protocols", nargs="+", metavar="NAME", help="of the others, these only (all)")
    parser.add_argument("--out", type=Path, help="file for the table (benchmarks/results/profiler_repeatability...md)")
    parser.add_argument("--answers", type=Path, help="file for every answer, as JSON")
    parser.add_argument("--child", nargs=2, metavar=("PROTOCOL", "NETS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    device = "cpu" if options.gpu is None else f"cuda:{options.gpu}"
    if options.child:
        protocol, nets = options.child
        print(json.dumps([child(protocol, net, device, options.seconds) for net in nets.split(",")]))
        return 0
    unknown = set(options.protocols or ()) - set(protocols(device))
    if unknown:
        parser.error(f"--protocols {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(protocols(device))}")
    out = options.out or RESULTS / f"profiler_repeatability{'' if options.gpu is None else '_gpu'}.md"
    answers: list[Answer] = []
    began = time.monotonic()
    for repeat in range(options.repeats):
        passed = time.monotonic() - began
        if options.minutes is not None and repeat and passed * (repeat + 1) / repeat > 60 * options.minutes:
            break
        answers += ask(repeat, device, options)
        # After every repeat, so that a run that is cut short leaves what it found.
        if options.answers:
            options.answers.write_text(json.dumps([vars(answer) for answer in answers]), encoding="utf-8")
        text = report(answers, device, options, repeat + 1)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    print(text)
    return 0


def ask(repeat: int, device: str, options: argparse.Namespace) -> list[Answer]:
    """Every protocol once, in shuffled order."""
    groups = [NETS] if options.together else [(net,) for net in NETS]
    tasks: list[tuple[str, tuple[str, ...]]] = [(OURS, NETS)]
    tasks += [(protocol, nets) for protocol in options.protocols or protocols(device) for nets in groups]
    random.Random(f"{options.seed}/{repeat}").shuffle(tasks)
    answers: list[Answer] = []
    for protocol, nets in tasks:
        found = ours(device, options.seconds, repeat) if protocol == OURS else theirs(protocol, nets, device, options)
        for answer in found:
            line = f"{answer.protocol:<16} {answer.net:<28} {answer.ms:8.3f} ms"
            print(f"[{repeat + 1}/{options.repeats}] {line}", file=sys.stderr, flush=True)
        answers += found
    return answers


def protocols(device: str) -> list[str]:
    """Those that this device can run, ours aside."""
    names = ["timm, 40 calls", "timm, all", "VanillaNet", "torch"]
    return names if device == "cpu" else [*names, "triton"]


def ours(device: str, seconds: float, seed: int) -> list[Answer]:
    """One call of the profiler for all nets; its target is out of reach, so that it uses all its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latency.json"
        command = [sys.executable, "-m", "vnas.profiler", *NETS, "--device", device, "--image-size", str(IMAGE_SIZE)]
        command += ["--max-seconds", str(seconds), "--target", "0.000001", "--energy-seconds", "0"]
        command += ["--seed", str(seed), "--json", str(path)]
        run(command)
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["nets"]
    return [
        Answer(OURS, entry["net"], entry["measurement"]["median_ms"], *entry["measurement"]["interval_ms"])
        for entry in entries
    ]


def theirs(protocol: str, nets: tuple[str, ...], device: str, options: argparse.Namespace) -> list[Answer]:
    """One protocol in one fresh process."""
    command = [sys.executable, __file__, "--child", protocol, ",".join(nets), "--seconds", str(options.seconds)]
    if options.gpu is not None:
        command += ["--gpu", str(options.gpu)]
    found = json.loads(run(command).splitlines()[-1])
    return [Answer(protocol, net, *numbers) for net, numbers in zip(nets, found, strict=True)]


def run(command: list[str]) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def child(protocol: str, name: str, device: str, seconds: float) -> tuple[float, float, float]:
    """What a protocol says of a net: answer, low and high, in milliseconds."""
    import torch

    from vnas.profiler.targets import find_target

    net: Any = find_target(name, IMAGE_SIZE).build()
    net = net.to(device)
    images = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)  # (B, C, H, W)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    def call() -> None:
        net(images)
        wait()

    with current(device), torch.inference_mode():
        if protocol == "torch":
            return blocked_autorange(net, images, seconds)
        if protocol == "triton":
            return do_bench(lambda: net(images), seconds)
        warm_ups, calls = {"timm, 40 calls": (10, 40), "timm, all": (10, None), "VanillaNet": (5, 1000)}[protocol]
        return mean_of_calls(call, warm_ups, calls, seconds)


def current(device: str) -> AbstractContextManager[object]:
    """Makes a GPU the one that others time and wait for: Triton's and torch's timers take the current one."""
    import torch

    return nullcontext() if device == "cpu" else torch.cuda.device(device)


def mean_of_calls(call: Callable[[], None], warm_ups: int, calls: int | None, seconds: float) -> tuple[float, ...]:
    """Mean of so many calls, or of as many as the seconds hold."""
    for _ in range(warm_ups):
        call()
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and (calls is None or len(samples) < calls):
        began = time.perf_counter()
        call()
        samples.append((time.perf_counter() - began) * 1e3)
    mean = statistics.fmean(samples)
    error = statistics.stdev(samples) / len(samples) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


def blocked_autorange(net: Any, images: Any, seconds: float) -> tuple[float, ...]:
    """Median of its blocks, with torch's threads as a user's script would have them."""
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("net(images)", globals={"net": net, "images": images}, num_threads=torch.get_num_threads())
    times_ms = [taken * 1e3 for taken in timer.blocked_autorange(min_run_time=seconds).times]
    return median_and_interval(times_ms)


def do_bench(call: Callable[[], object], seconds: float) -> tuple[float, ...]:
    """Median of its samples."""
    from triton.testing import do_bench

    return median_and_interval(list(do_bench(call, rep=int(seconds * 1e3), return_mode="all")))


def median_and_interval(samples_ms: list[float]) -> tuple[float, ...]:
    """Median and its order-statistic interval."""
    from vnas.profiler.statistics import median_interval

    interval = median_interval(samples_ms)
    return interval.median, interval.low, interval.high


def report(answers: list[Answer], device: str, options: argparse.Namespace, repeats: int) -> str:
    """The table, what it says, and the machine."""
    names = [OURS, *(options.protocols or protocols(device))]
    rows = [
        "| net | protocol | median of the answers, ms | spread | interval's width | held |",
        "|---|---|---|---|---|---|",
    ]
    spreads: dict[tuple[str, str], float] = {}
    pairs: dict[str, list[bool]] = {name: [] for name in names}
    for net, name in itertools.product(NETS, names):
        own = [answer for answer in answers if (answer.net, answer.protocol) == (net, name)]
        if not own:
            continue
        middle = statistics.median(answer.ms for answer in own)
        width = statistics.median((answer.high_ms - answer.low_ms) / answer.ms for answer in own)
        if len(own) < ENOUGH_ANSWERS:
            rows.append(f"| {net} | {name} | {middle:.3f} | {TOO_FEW} | {width:.1%} | {TOO_FEW} |")
            continue
        spreads[net, name] = max(answer.ms for answer in own) / min(answer.ms for answer in own) - 1
        held = [one.low_ms <= other.ms <= one.high_ms for one, other in itertools.permutations(own, 2)]
        pairs[name] += held
        share = f"{sum(held)} of {len(held)}"
        rows.append(f"| {net} | {name} | {middle:.3f} | {spreads[net, name]:.1%} | {width:.1%} | {share} |")
    return "\n".join(
        [
            "# How far apart the answers of one protocol lie",
            "",
            *rows,
            "",
            *summary(spreads, pairs, names),
            "",
            f"{machine(device)}, {datetime.datetime.now(datetime.UTC).date()}. {repeats} answers of each protocol, "
            f"{options.seconds:g} s of measuring a net each, batch 1, {IMAGE_SIZE} px. Command: "
            f"`{' '.join(['python', 'benchmarks/profiler_repeatability.py', *without_files(sys.argv[1:])])}`",
            "",
        ]
    )


def without_files(arguments: Sequence[str]) -> list[str]:
    """The command as another machine would type it: where files go is its own matter."""
    before = ["", *arguments]
    return [one for prior, one in zip(before, arguments, strict=False) if not {prior, one} & {"--out", "--answers"}]


def summary(spreads: dict[tuple[str, str], float], pairs: dict[str, list[bool]], names: list[str]) -> list[str]:
    """Ours against the best of the others, net by net, and how often intervals held."""
    nets = [net for net in NETS if all((net, name) in spreads for name in names)]
    if not nets:
        return [
            f"- {TOO_FEW.capitalize()} to compare spreads: of each protocol there must be {ENOUGH_ANSWERS} or more; "
            "give more --minutes, or fewer --protocols."
        ]
    factors = []
    lines = []
    for net in nets:
        best = min((name for name in names if name != OURS), key=lambda name, net=net: spreads[net, name])  # type: ignore[misc]
        factor = spreads[net, best] / spreads[net, OURS] if spreads[net, OURS] else float("inf")
        factors.append(factor)
        lines.append(f"- {net}: the smallest spread of the others ({best}) is {factor:.1f} times ours.")
    alone = []
    for name in (name for name in names if name != OURS):
        ratios = [spreads[net, name] / spreads[net, OURS] if spreads[net, OURS] else float("inf") for net in nets]
        alone.append(f"{name} {statistics.median(ratios):.1f}")
    shares = ", ".join(f"{name} {sum(held) / len(held):.0%}" for name, held in pairs.items() if held)
    return [
        *lines,
        f"- Median of these factors: {statistics.median(factors):.1f} (target 2, and above 1 on every net).",
        f"- The same against each protocol alone, median of the nets: {', '.join(alone)}.",
        f"- Pairs in which one answer's interval holds the other, all nets: {shares} (target for {OURS}: 90 %).",
    ]


def machine(device: str) -> str:
    """Device and software, in words."""
    import torch

    import vnas
    from vnas.profiler import capture_environment

    environment = capture_environment(torch.device(device))
    return (
        f"{environment.device_kind}, {environment.threads} torch threads, Python {platform.python_version()}, "
        f"torch {environment.torch}, vnas {vnas.__version__} ({environment.revision or 'revision unknown'})"
    )


if __name__ == "__main__":
    sys.exit(main())
