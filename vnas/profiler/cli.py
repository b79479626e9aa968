"""The command: nets in, one line each, a table at the end, and files where asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vnas.errors import EXIT_INTERRUPTED, VnasError

EPILOG = """\
NET is one of
  vanillanet_5                     a preset of this project: its fused form
  timm:resnet50                    a model of timm, with fresh weights
  torchvision:shufflenet_v2_x1_5   a classification model of torchvision, with fresh weights
  FILE.json                        an architecture of this project: its fused form
  package.module:function          called with no arguments; returns what is called with a batch of images

Every net is measured in each of the runtimes and precisions that are named.
  runtimes    eager, channels_last, cuda_graph, compile, compile_max_autotune, onnxruntime, openvino, tensorrt
  precisions  fp32, tf32, fp16, bf16; where none is named, the net's own

examples
  python -m vnas.profiler vanillanet_5 --device cpu
  python -m vnas.profiler timm:resnet18 timm:mobilenetv3_large_100 --device cpu --json latency.json
  python -m vnas.profiler timm:resnet18 --device cpu --runtime eager,channels_last --precision fp32,bf16
  python -m vnas.profiler torchvision:shufflenet_v2_x1_5 --device cpu --threads 1 --processes 5 --max-seconds 30
  python -m vnas.profiler timm:resnet18 --device cpu --json new.json --compare latency.json --fail-on slower

exit codes: 0 done, 1 failed, a result is invalid, or --fail-on is met, 2 usage, 3 no such device, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)

    from vnas.profiler.session import Session
    from vnas.profiler.terminal import Terminal

    terminal = Terminal()
    _reach_current_folder()
    try:
        return Session(arguments, terminal).run()
    except VnasError as error:
        terminal.complain(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        terminal.complain("interrupted")
        return EXIT_INTERRUPTED


def _reach_current_folder() -> None:
    """``mynets:small`` is found as after ``python -m``: a console script has its own folder on the path instead."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and not {"", here} & {*sys.path}:
        sys.path.insert(0, here)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vnas.profiler",
        description="Latency of nets on this device: median and its 95 % interval, batch 1 unless said otherwise.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("nets", nargs="+", metavar="NET", help="what to measure (see below)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", metavar="N", help="index of the GPU; by default the first one, else the CPU")
    place.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N")
    how = parser.add_argument_group("how a net is run")
    how.add_argument("--runtime", type=_names, default=("eager",), metavar="R[,R...]", help="runtimes (eager)")
    how.add_argument("--precision", type=_names, default=(None,), metavar="P[,P...]", help="precisions (as it is)")
    how.add_argument("--image-size", type=_count, metavar="PX", help="height and width of the images (224)")
    how.add_argument("--batch", type=_count, default=1, metavar="N", help="images a call (1)")
    how.add_argument("--threads", type=_count, metavar="N", help="threads on the CPU (as torch is set)")
    long = parser.add_argument_group("how long it is measured")
    long.add_argument("--processes", type=_count, default=3, metavar="K", help="fresh processes a net (3)")
    long.add_argument(
        "--target", type=_share, default=0.01, metavar="SHARE", help="width of the interval to reach: 1%% or 0.01 (1%%)"
    )
    long.add_argument(
        "--max-seconds",
        type=_seconds,
        default=15.0,
        metavar="S",
        help="time limit of one net's samples, over all processes (15)",
    )
    long.add_argument(
        "--energy-seconds",
        type=_energy_seconds,
        metavar="S",
        help="window of the energy measurement, at least 1, or 0 for none (5)",
    )
    long.add_argument(
        "--patience",
        type=_patience,
        metavar="S",
        help="wait so long for slowed CPUs to become quiet, over all processes (as long as --max-seconds)",
    )
    long.add_argument("--seed", type=_whole, default=0, metavar="N", help="of weights, images and order (0)")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--json", type=Path, metavar="FILE", help="write every sample and its provenance")
    out.add_argument("--csv", type=Path, metavar="FILE", help="write one row a net, in FILE.layers.csv one a module")
    out.add_argument("--figure", type=Path, metavar="FILE", help="draw the samples, as .png, .svg or .pdf")
    out.add_argument("--compare", type=Path, metavar="OLD", help="say what changed since the results that --json wrote")
    out.add_argument("--fail-on", choices=["slower"], help="exit with 1 if any net is that, compared with OLD")
    out.add_argument("--layers", action="store_true", help="time by module too (eager, in this process)")
    return parser


def _whole(text: str, least: int = 0) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _patience(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return value


def _energy_seconds(text: str) -> float:
    value = _number(text)
    if value != 0 and not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds of at least 1, below which a counter says nothing; 0 is no energy"
        )
    return value


def _share(text: str) -> float:
    value = _number(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, e.g. 1% or 0.01")
    return value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name in it; separate names by one comma")
    return names


def _number(text: str) -> float:
    """``-1`` where it is none, which is out of every range here."""
    try:
        return float(text)
    except ValueError:
        return -1.0
