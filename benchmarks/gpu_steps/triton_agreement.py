"""A step of the GPU report: our graph replay against Triton's ``do_bench_cudagraph``, net by net.

    python -m benchmarks.gpu_steps.triton_agreement --gpu 0 --out DIR

Triton repeats the call inside one graph and divides; we replay a graph of one call. Writes ``triton.md`` after each
net. Exit codes: 0 where every net agrees within 2 %, 1 where one does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vnas.errors import EXIT_DONE, EXIT_FAILED, MissingExtraError, VnasError

NETS = ("timm:resnet18", "vanillanet_5", "vanillanet_9", "timm:mobilenetv3_large_100", "timm:resnet50")

TOLERANCE = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every net both ways."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_steps.triton_agreement", allow_abbrev=False)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)

    from vnas.profiler.devices import resolve_device

    device = resolve_device(arguments.gpu)
    lines = [
        "| net | ours, graph replay ms | Triton, do_bench_cudagraph ms | ratio | within 2 % |",
        "|---|---|---|---|---|",
    ]
    agree = True
    for net in NETS:
        ours, theirs = both(net, device)
        ratio = None if ours is None else ours / theirs
        within = ratio is not None and abs(ratio - 1.0) <= TOLERANCE
        agree = agree and within
        shown = "-" if ours is None or ratio is None else f"{ours:.4f} | {theirs:.4f} | {ratio:.4f}"
        lines.append(f"| {net} | {shown} | {'yes' if within else 'no'} |")
        print(lines[-1], flush=True)
        (arguments.out / "triton.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return EXIT_DONE if agree else EXIT_FAILED


def both(net: str, device: object) -> tuple[float | None, float]:
    """Our median of the replay of a graph, and Triton's, in milliseconds."""
    import torch

    from vnas.profiler import measure
    from vnas.profiler.targets import find_target

    try:
        from triton.testing import do_bench_cudagraph
    except ImportError as error:
        raise MissingExtraError("triton is not installed; pip install triton") from error
    assert isinstance(device, torch.device)
    module = find_target(net).build()
    assert isinstance(module, torch.nn.Module)
    module = module.to(device)
    image = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(0)).to(device)
    ours = measure(module, image, device=device, max_seconds=1.0, max_warmup_seconds=0.5)
    with torch.cuda.device(device), torch.inference_mode():
        theirs = do_bench_cudagraph(lambda: module(image), rep=300, return_mode="median")
    return ours.graph_ms, float(theirs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
