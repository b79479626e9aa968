"""Which layout, precision and compilation make training steps fastest on this device, net by net.

    python -m benchmarks.speed_choices                          the first GPU, else the CPU; about 2 minutes
    python -m benchmarks.speed_choices --device cpu --nets 2 --compile
    python -m benchmarks.speed_choices --gpu 0 --compile --steps 50000 --out FILE

It asks ``vnas.training.speed.choosing.choose_speed`` with everything at "auto", as a run on a GPU does where nothing
else is asked for, and shows all that was measured: gains over the contiguous float32 net, medians of rounds in turns
with their 95 % interval, and what a run of so many steps would use. With ``--compile`` the fastest is compiled too,
which takes most of a minute for each net, and the gain of that is over the same net uncompiled.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, VnasError

if TYPE_CHECKING:
    import torch

    from vnas.nets import Architecture

BATCH = 256
STEPS = 20_000
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """What was measured of one net.

    Attributes:
        name: of the net.
        plain_ms: a step of the contiguous float32 net; None where the run would be too brief to measure.
        gains: median and 95 % interval of times as fast, or times as fast at a first look, by speed in words.
        compile_seconds: what compiling took; None where it was not tried.
        compiled: gain of the compiled over the uncompiled net; None likewise.
        choice: of a run of so many steps, in words.
        reason: of the choice.
    """

    name: str
    plain_ms: float | None
    gains: Mapping[str, tuple[float, ...]]
    compile_seconds: float | None
    compiled: tuple[float, ...] | None
    choice: str
    reason: str


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table, net after net."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed_choices",
        description=__doc__.splitlines()[0] if __doc__ else None,
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu", type=int, metavar="N", help="index of the GPU (the first, where there is one)")
    where.add_argument("--device", help="cpu, or as torch names it")
    parser.add_argument("--nets", type=int, metavar="N", help="only the first so many nets")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="B", help=f"images a step ({BATCH})")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of the run to choose for ({STEPS})")
    parser.add_argument("--compile", action="store_true", help="compile the fastest too, whatever it costs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(benchmarks/results/speed_choices_cpu.md or _gpu.md)")
    options = parser.parse_args(argv)

    from benchmarks.training_throughput import nets
    from vnas.profiler.devices import resolve_device

    device = resolve_device(options.gpu, options.device)
    out = options.out or RESULTS / f"speed_choices_{'gpu' if device.type == 'cuda' else 'cpu'}.md"
    command = ["python", "-m", "benchmarks.speed_choices", *(sys.argv[1:] if argv is None else argv)]
    rows: list[Row] = []
    for name, arch in list(nets().items())[: options.nets]:
        rows.append(look(name, arch, device, options.batch, options.steps, compiled=options.compile))
        print(f"{name}: {rows[-1].reason}", flush=True)
        text = page(rows, device, options.batch, options.steps, " ".join(command))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten: {out}")
    return EXIT_DONE


def look(name: str, arch: Architecture, device: torch.device, batch: int, steps: int, *, compiled: bool) -> Row:
    """Measure one net.

    Args:
        name: of the net.
        arch: of the net.
        device: where.
        batch: images in a step.
        steps: of the run to choose for.
        compiled: compile it too, even where that run would not try it.
    """
    import torch

    from vnas.config import TrainingConfig
    from vnas.nets import build
    from vnas.training import seeded
    from vnas.training.speed.choosing import choose_speed
    from vnas.training.speed.measuring import COMPILED, RACES

    auto: Any = "auto"
    config = TrainingConfig(channels_last=auto, amp=auto, compile=auto if compiled else False)
    with seeded(0, device):
        net = build(arch).to(device)
        images = torch.randn((batch, arch.in_chans, arch.image_size, arch.image_size), device=device)
        labels = torch.randint(arch.num_classes, (batch,), device=device)
    RACES.clear()
    COMPILED.clear()
    if compiled:  # a run so long that it tries everything; what it finds is known to the one asked for
        choose_speed(net, config, device, (images, labels), 10**9)
    choice, reason = choose_speed(net, config, device, (images, labels), steps)
    ran = next(iter(RACES.values()), None)
    tried = next(iter(COMPILED.values()), None)
    gains: dict[str, tuple[float, ...]] = {}
    plain_ms = compiled_gain = None
    if ran is not None:
        plain, *others = ran.seconds
        plain_ms = 1e3 * statistics.median(ran.seconds[plain])
        for speed in others:
            gain = ran.gain(speed, plain)
            gains[str(speed)] = (gain.median, gain.low, gain.high)
        gains |= {str(speed): (1.0 / slowness,) for speed, slowness in ran.hopeless.items()}
    if tried is not None and tried.race is not None:
        uncompiled, *fast = tried.race.seconds
        if fast:
            gain = tried.race.gain(fast[0], uncompiled)
            compiled_gain = (gain.median, gain.low, gain.high)
        else:
            compiled_gain = (1.0 / next(iter(tried.race.hopeless.values())),)
    return Row(name, plain_ms, gains, None if tried is None else tried.seconds, compiled_gain, str(choice), reason)


def page(rows: Sequence[Row], device: torch.device, batch: int, steps: int, command: str) -> str:
    """The table, with the machine, the date and the command."""
    from benchmarks.profiler_repeatability import machine

    speeds = list(dict.fromkeys(speed for row in rows for speed in row.gains))
    tried = any(row.compile_seconds is not None for row in rows)
    heads = ["net", "contiguous float32, ms a step", *speeds, *["compiled", "compiling, s"] * tried]
    lines = [
        "# Training steps: what is faster",
        "",
        f"| {' | '.join([*heads, f'used for {steps:,} steps'])} |",
        f"|{'---|' * (len(heads) + 1)}",
    ]
    for row in rows:
        cells = [row.name, "-" if row.plain_ms is None else f"{row.plain_ms:.2f}"]
        cells += [_cell(row.gains.get(speed)) for speed in speeds]
        if tried:
            cells += [_cell(row.compiled), "-" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"]
        lines.append(f"| {' | '.join([*cells, row.choice])} |")
    lines += [
        "",
        "Times as fast as the contiguous float32 net, and for the compiled net as the same one uncompiled: median and "
        "95 % interval over rounds in turns; a single number is that of a first look, after which there were no turns.",
        "",
        f"{machine(str(device))}, {datetime.datetime.now(datetime.UTC).date()}. Batch {batch}. Command: `{command}`",
        "",
    ]
    return "\n".join(lines)


def _cell(gain: tuple[float, ...] | None) -> str:
    if gain is None:
        return "-"
    return f"{gain[0]:.2f}" if len(gain) == 1 else f"{gain[0]:.2f} ({gain[1]:.2f} to {gain[2]:.2f})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
