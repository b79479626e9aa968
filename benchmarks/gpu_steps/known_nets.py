"""A step of the GPU report: the nets of the paper's latency table, in passes of one runtime and precision each.

    python -m benchmarks.gpu_steps.known_nets --gpu 0 --out DIR --seconds 190

The nets of a pass take turns in shuffled rounds in one process; a pass begins only where the one before it would fit
into the time that is left. After each, ``NAME.json`` (every sample), ``NAME.csv`` and ``NAME.md`` are written.
Eager results hold the replay of a CUDA graph too. Exit codes: 0, or 1 where a net could not be measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu_steps.arguments import step_parser
from benchmarks.gpu_steps.known_table import Pass, markdown
from benchmarks.gpu_steps.paper import PAPER, PaperNet
from vnas.errors import EXIT_DONE, EXIT_FAILED, VnasError
from vnas.profiler.measurement import Measurement

PASSES = "eager,eager:fp16,eager:fp32,channels_last:fp16,channels_last,cuda_graph,eager:bf16"
"""The most telling first; the second is the paper's own comparison in half precision."""

MAX_SECONDS = 0.8
"""Of samples, for each net in each pass: 31 nets in a pass."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, pass after pass."""
    parser = step_parser("known_nets")
    parser.add_argument("--passes", default=PASSES, help="RUNTIME or RUNTIME:PRECISION, with commas")
    parser.add_argument("--nets", nargs="+", choices=[net.net for net in PAPER], help="some of the paper's only")
    parser.add_argument("--name", default="known_nets", help="of the files")
    parser.add_argument("--alone", action="store_true", help="one net after the other, each written at once")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="of samples, a net and pass")
    arguments = parser.parse_args(argv)

    from vnas.profiler.devices import resolve_device

    start = time.monotonic()
    device = resolve_device(arguments.gpu, arguments.device)
    nets = [net for net in PAPER if arguments.nets is None or net.net in arguments.nets]
    passes = [_pass(text) for text in arguments.passes.split(",")]
    found: dict[Pass, dict[str, Measurement]] = {}
    errors: list[str] = []
    measure_pass = _measurer(nets, device, arguments.max_seconds, errors)
    longest = 0.0
    for which, group in _groups(passes, nets, alone=arguments.alone):
        left = arguments.seconds - (time.monotonic() - start)
        if longest > 0.8 * left:
            print(f"no time left for {which[0]} {which[1] or '(as set)'} of {len(group)} nets")
            continue
        began = time.monotonic()
        found.setdefault(which, {}).update(measure_pass(which, group))
        longest = max(longest, time.monotonic() - began)
        _write(arguments.out / arguments.name, nets, found, errors)
        print(f"{which[0]} {which[1] or '(as set)'}: {len(group)} nets in {time.monotonic() - began:.1f} s", flush=True)
    return EXIT_FAILED if errors else EXIT_DONE


def build(net: PaperNet) -> Callable[..., object]:
    """The net as the paper measured it: in eval mode, on the CPU, with fresh weights."""
    from vnas.profiler.targets import find_target

    made = find_target(net.net).build()
    if net.reparameterised:
        from timm.utils import reparameterize_model

        merged: Callable[..., object] = reparameterize_model(made, inplace=True)
        return merged
    return made


def _pass(text: str) -> Pass:
    runtime, _, precision = text.partition(":")
    return runtime, precision or None


def _groups(
    passes: Sequence[Pass], nets: Sequence[PaperNet], *, alone: bool
) -> Iterator[tuple[Pass, Sequence[PaperNet]]]:
    for which in passes:
        if alone:
            yield from ((which, [net]) for net in nets)
        else:
            yield which, nets


def _measurer(
    nets: Sequence[PaperNet], device: object, max_seconds: float, errors: list[str]
) -> Callable[[Pass, Sequence[PaperNet]], dict[str, Measurement]]:
    """Builds every net once, and gives what measures some of them in a pass."""
    import torch

    from vnas.profiler.measuring import Job, measure_all
    from vnas.profiler.plan import Rules

    assert isinstance(device, torch.device)
    image = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(0)).to(device)
    built: dict[str, Callable[..., object]] = {}
    for net in nets:
        try:
            module = build(net)
            built[net.name] = module.to(device) if isinstance(module, torch.nn.Module) else module
        except (VnasError, RuntimeError) as error:
            errors.append(f"{net.name} could not be built: {error}")
    rules = Rules(min_samples=30, min_seconds=min(0.3, max_seconds), max_seconds=max_seconds, max_warmup_seconds=0.6)

    def measure_pass(which: Pass, group: Sequence[PaperNet]) -> dict[str, Measurement]:
        runtime, precision = which
        names = [net.name for net in group if net.name in built]
        jobs = [Job(name, built[name], (image,), runtime, precision) for name in names]
        results: dict[str, Measurement] = {}
        for name, outcome in zip(names, measure_all(jobs, device=device, rules=rules), strict=True):
            if isinstance(outcome, VnasError):
                errors.append(f"{name}, {runtime} {precision or '(as set)'}: {outcome}")
            else:
                results[name] = outcome
        return results

    return measure_pass


def _write(
    stem: Path, nets: Sequence[PaperNet], found: dict[Pass, dict[str, Measurement]], errors: Sequence[str]
) -> None:
    from vnas.profiler.results import Entry, write_csv, write_json

    by_name = {net.name: net for net in nets}
    entries = [
        Entry(by_name[name].net, _form(by_name[name]), 224, measurement)
        for by_net in found.values()
        for name, measurement in by_net.items()
    ]
    write_json(stem.with_suffix(".json"), entries)
    write_csv(stem.with_suffix(".csv"), entries)
    stem.with_suffix(".md").write_text(markdown(nets, found, errors), encoding="utf-8")


def _form(net: PaperNet) -> str:
    return "fused" if net.reparameterised or net.net.startswith("vanillanet") else "eval"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
