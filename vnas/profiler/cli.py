"""The command: nets in, one line each, a table at the end, and a JSON file where asked for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError, VnasError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from vnas.profiler.measurement import Measurement
    from vnas.profiler.protocol import Progress, Report
    from vnas.profiler.targets import Target

SCHEMA = 1

EPILOG = """\
NET is one of
  vanillanet_5                     a preset of this project: its fused form
  timm:resnet50                    a model of timm, with fresh weights
  torchvision:shufflenet_v2_x1_5   a classification model of torchvision, with fresh weights
  FILE.json                        an architecture of this project: its fused form
  package.module:function          called with no arguments; returns what is called with a batch of images

examples
  python -m vnas.profiler vanillanet_5 --device cpu
  python -m vnas.profiler timm:resnet18 timm:mobilenetv3_large_100 --device cpu --json latency.json
  python -m vnas.profiler torchvision:shufflenet_v2_x1_5 --device cpu --threads 1 --batch 4 --max-seconds 5

exit codes: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    done: list[tuple[Target, Measurement]] = []
    try:
        return _run(arguments, done)
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        kept = f"; they are in {arguments.json}" if arguments.json and done else ""
        print(  # noqa: T201
            f"\ninterrupted: {len(done)} of {len(arguments.nets)} nets were measured{kept}", file=sys.stderr
        )
        return EXIT_INTERRUPTED


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
    parser.add_argument("--image-size", type=_count, metavar="PX", help="height and width of the images (224)")
    parser.add_argument("--batch", type=_count, default=1, metavar="N", help="images a call (1)")
    parser.add_argument("--threads", type=_count, metavar="N", help="torch threads (as set)")
    parser.add_argument(
        "--max-seconds", type=_seconds, default=15.0, metavar="S", help="time limit of one net's samples (15)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample and its provenance")
    return parser


def _run(arguments: argparse.Namespace, done: list[tuple[Target, Measurement]]) -> int:
    _check_writable(arguments.json)

    from rich.console import Console

    from vnas.profiler.devices import resolve_device
    from vnas.profiler.lines import measurement_line
    from vnas.profiler.targets import find_target

    device = resolve_device(arguments.gpu, arguments.device)
    # A file or a pipe has no width of its own; rich would then cut the table at 80 columns.
    out = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 160)
    out.print(_device_line(device, arguments.threads))
    targets = [find_target(text, arguments.image_size) for text in arguments.nets]
    exit_code = EXIT_DONE
    for target in targets:
        try:
            result = _measure(target, device, arguments)
        except VnasError as error:
            print(f"error: {target.name}: {error}", file=sys.stderr)  # noqa: T201
            exit_code = exit_code or error.exit_code
            continue
        done.append((target, result))
        out.print(measurement_line(target.name, target.form, result))
        if arguments.json is not None:
            _write_json(arguments.json, done)
    if done:
        _print_summary(out, done)
    return exit_code


def _measure(target: Target, device: torch.device, arguments: argparse.Namespace) -> Measurement:
    import torch

    from vnas.profiler.measuring import measure

    net = target.build()
    if isinstance(net, torch.nn.Module):
        net = net.to(device)
    shape = (arguments.batch, target.in_chans, target.image_size, target.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)  # (B, C, H, W)
    return measure(
        net,
        images,
        device=device,
        min_seconds=min(0.5, arguments.max_seconds),
        max_seconds=arguments.max_seconds,
        threads=arguments.threads,
        progress=_progress_to(sys.stderr, target.name),
    )


def _progress_to(stream: TextIO, name: str) -> Report | None:
    """One line that is written over; only on a terminal, and only when ``measure`` calls.

    A spinner drawn by another thread would take the interpreter's lock in the middle of a sample.
    """
    if not stream.isatty():
        return None

    def report(progress: Progress) -> None:
        numbers = ""
        if progress.median_ms is not None and progress.relative_width is not None:
            numbers = (
                f", {progress.samples} samples, {progress.median_ms:.3f} ms, interval {progress.relative_width:.1%}"
            )
        stream.write(f"\r\x1b[K{name}: {progress.phase}{numbers}\r")
        stream.flush()

    return report


def _device_line(device: torch.device, threads: int | None) -> str:
    import torch

    from vnas.profiler.devices import cuda_uuid
    from vnas.profiler.environment import cpu_kind

    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)}, {cuda_uuid(device.index)})"
    return f"device: cpu ({cpu_kind()}; torch threads: {threads or torch.get_num_threads()})"


def _print_summary(out: Console, done: Sequence[tuple[Target, Measurement]]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from vnas.profiler.lines import COLUMNS, GPU_COLUMNS, measurement_row

    table = Table(box=SIMPLE)
    for column in COLUMNS if done[0][1].environment.device_type == "cpu" else GPU_COLUMNS:
        table.add_column(column, justify="left" if column in ("net", "form") else "right", no_wrap=True)
    for target, result in done:
        table.add_row(*measurement_row(target.name, target.form, result))
    out.print(table)
    about: dict[str, list[str]] = {}
    for target, result in done:
        for note in result.notes:
            about.setdefault(note, []).append(target.name)
    for note, names in about.items():
        whose = "all" if len(names) == len(done) else ", ".join(names)
        out.print(f"note ({whose}): {note}")


def _check_writable(path: Path | None) -> None:
    """Said before measuring for minutes, not after."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder; give the name of a file, e.g. --json {path / 'latency.json'}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"--json {path}: the folder {path.absolute().parent} is not there or not writable")


def _write_json(path: Path, done: Sequence[tuple[Target, Measurement]]) -> None:
    nets = [
        {"net": target.name, "form": target.form, "image_size": target.image_size, "measurement": result.to_dict()}
        for target, result in done
    ]
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"schema": SCHEMA, "nets": nets}, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
