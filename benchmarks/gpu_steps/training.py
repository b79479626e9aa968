"""A step of the GPU report: what makes training steps fast on this GPU, and how fast a whole run is.

    python -m benchmarks.gpu_steps.training --gpu 0 --out DIR --seconds 30

For each net: its choice of layout and precision with all that was measured (``benchmarks/speed_choices.py``), then
``vnas.training.fit`` on the embedded digits beside the same run fed one batch over and over: images a second of the
second half of each run. The last net is compiled too where the time is left. ``training.md`` and ``training.json`` are
written after each net. Exit codes: 0; 1 where a net could not be trained; 2 where pydantic is not installed, which
training is configured with.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_steps.arguments import step_parser
from vnas.errors import EXIT_DONE, EXIT_FAILED, MissingExtraError, VnasError

if TYPE_CHECKING:
    import torch

    from benchmarks.speed_choices import Row
    from vnas.nets import Architecture
    from vnas.training import Data

BATCH = 256
STEPS = 4_000
"""Of the run that is chosen for: a twentieth of it is 200 steps."""

EPOCHS = 40
"""Of the digits: 5 steps each."""

COMPILING_SECONDS = 45.0
"""That must be left to try it."""

NEEDED = ("pydantic", "tomli_w", "sklearn")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, net after net, as long as there is time."""
    parser = step_parser("training")
    parser.add_argument("--nets", type=int, help="only the first so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of each run ({EPOCHS})")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"training needs {', '.join(NEEDED)}; pip install "
            f"{' '.join(missing).replace('tomli_w', 'tomli-w').replace('sklearn', 'scikit-learn')}"
        )

    from benchmarks.speed_choices import look, page
    from benchmarks.training_throughput import nets
    from vnas.profiler.devices import resolve_device
    from vnas.training import open_data

    device, data = resolve_device(arguments.gpu, arguments.device), open_data("digits")
    chosen = list(nets().items())[: arguments.nets]
    rows: list[Row] = []
    rates: dict[str, tuple[float, float]] = {}
    errors: list[str] = []
    longest = 0.0
    for name, arch in chosen:
        began = time.monotonic()
        left = arguments.seconds - (began - start)
        if 1.5 * longest > left:
            print(f"no time left for {name}", flush=True)
            continue
        compiling = name == chosen[-1][0] and left > COMPILING_SECONDS + 1.5 * longest
        try:
            rows.append(look(name, arch, device, BATCH, STEPS, compiled=compiling))
            rates[name] = end_to_end(arch, data, device, arguments.epochs)
            print(f"{name}: {rows[-1].reason}", flush=True)
        except (VnasError, RuntimeError) as error:
            errors.append(f"{name}: {error}")
            print(errors[-1], flush=True)
        longest = max(longest, time.monotonic() - began)
        command = "python -m benchmarks.gpu_steps.training"
        text = page(rows, device, BATCH, STEPS, command) + "\n" + rates_table(rates, errors)
        (arguments.out / "training.md").write_text(text, encoding="utf-8")
        plain = {"choices": [dataclasses.asdict(row) for row in rows], "images_per_second": rates, "errors": errors}
        (arguments.out / "training.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    return EXIT_FAILED if errors else EXIT_DONE


def end_to_end(arch: Architecture, data: Data, device: torch.device, epochs: int) -> tuple[float, float]:
    """Images a second of a run on the digits, and of one that is fed one batch over and over."""
    from benchmarks.training_throughput import OneBatch
    from vnas.config import TrainingConfig
    from vnas.training import Progress, fit

    arch = dataclasses.replace(arch, in_chans=1)
    config = TrainingConfig(epochs=epochs, batch_size=BATCH, flip=False, crop_padding=2)

    def rate(source: Any) -> float:
        told: list[Progress] = []
        fit(arch, source, config, seed=0, device=device, progress=told.append)
        half = next(where for where in told if 2 * where.step >= where.steps)
        seconds = told[-1].seconds - half.seconds
        return BATCH * (told[-1].step - half.step) / seconds

    return rate(data), rate(OneBatch(data))


def rates_table(rates: dict[str, tuple[float, float]], errors: Sequence[str]) -> str:
    """Images a second, end to end."""
    lines = [
        "## A whole run on the digits at 32 px",
        "",
        "| net | images/s | fed one batch over and over | share |",
        "|---|---|---|---|",
        *(f"| {name} | {ours:,.0f} | {limit:,.0f} | {ours / limit:.3f} |" for name, (ours, limit) in rates.items()),
        "",
        *(f"- {error}" for error in errors),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
