"""The command line of training. Imports nothing heavy until the arguments are known to be good."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vnas.errors import EXIT_FAILED, EXIT_INTERRUPTED, VnasError

EPILOG = """\
NET is a preset (vanillanet_5 .. vanillanet_13) or an architecture FILE.json.

RECIPE is
  brief      what the shipped studies found to work in minutes (the default)
  paper      VanillaNet's own for ImageNet-1k: 300 epochs, LAMB, BCE, EMA; values for vanillanet_5 .. 10
  NAME       a shipped study's (quickstart, cifar10, imagenet)
  FILE.toml  your own, or a study's

examples:
  python -m vnas.training vanillanet_6 --image-size 32 --data digits --device cpu --epochs 2
  python -m vnas.training evaluate vanillanet_6.pth --net vanillanet_6 --data /path/to/imagenet/val
  torchrun --nproc-per-node 8 -m vnas.training vanillanet_6 --recipe paper --data /path/to/imagenet

exit codes: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted (go on with --resume)
"""

EVALUATE_EPILOG = """\
examples:
  python -m vnas.training evaluate reports/training/vanillanet_6/weights.safetensors --data digits
  python -m vnas.training evaluate vanillanet_6.pth --net vanillanet_6 --data /path/to/imagenet/val
  python -m vnas.training evaluate net.safetensors --data /path/to/images --split validation --json accuracy.json

exit codes: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted
"""

SPLITS = ("train", "validation", "test", "all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 3 no such device, 130 interrupted.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    evaluating = typed[:1] == ["evaluate"]
    arguments = evaluate_parser().parse_args(typed[1:]) if evaluating else parser().parse_args(typed)
    try:
        if evaluating:
            from vnas.training.command.evaluating import run as evaluate

            return evaluate(arguments)
        from vnas.training.command.session import run

        return run(arguments)
    except VnasError as error:
        _complain(f"error: {error}")
        return error.exit_code
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"error: {error.strerror or error}{where}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The flags of ``python -m vnas.training NET``."""
    result = argparse.ArgumentParser(
        prog="python -m vnas.training",
        description="Train one net, briefly or in full, and judge its training form and its fused form side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("net", metavar="NET", help="what to train, or the word evaluate (see its own --help)")
    result.add_argument(
        "--data",
        default="digits",
        metavar="SOURCE",
        help="digits (the default), a folder or .tar of class folders, torch/cifar10, hfds/..., wds/...",
    )
    _add_device(result)
    result.add_argument("--recipe", default="brief", metavar="RECIPE", help="how to train it (brief; see below)")
    result.add_argument("--epochs", type=_positive, metavar="N", help="length of the run, instead of the recipe's")
    result.add_argument("--image-size", type=_positive, metavar="PX", help="for a preset: side of the images (224)")
    result.add_argument("--seed", type=_whole, default=0, metavar="N", help="of weights, order, augmentation (0)")
    result.add_argument("--out", type=Path, metavar="DIR", help="what comes out goes there (reports/training/NET)")
    result.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    result.add_argument("--tensorboard", action="store_true", help="insist on events; they are written if they can be")
    result.add_argument("--sync-norms", action="store_true", help="with torchrun: batch norms over the whole batch")
    _add_set(result, "change the recipe, e.g. training.lr=1e-3")
    return result


def evaluate_parser() -> argparse.ArgumentParser:
    """The flags of ``python -m vnas.training evaluate``."""
    result = argparse.ArgumentParser(
        prog="python -m vnas.training evaluate",
        description="Top-1 and top-5 accuracy of stored weights on a set of images.",
        epilog=EVALUATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("weights", metavar="WEIGHTS", type=Path, help="a .safetensors of this project, or a .pth")
    result.add_argument("--data", metavar="SOURCE", help="the images (those of the run that the weights lie in)")
    _add_device(result)
    result.add_argument("--net", metavar="NET", help="what a .pth belongs to: a preset or an architecture FILE.json")
    result.add_argument("--key", metavar="NAME", help="entry of a .pth (model_ema, else model, else state_dict)")
    result.add_argument("--image-size", type=_positive, metavar="PX", help="side of the images (the net's own)")
    result.add_argument(
        "--split", choices=SPLITS, help="which images (all of a folder named val or test, else the test set)"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    _add_set(result, "change how data is read, e.g. data.workers=8")
    return result


def _add_device(result: argparse.ArgumentParser) -> None:
    place = result.add_mutually_exclusive_group()
    place.add_argument("--gpu", metavar="N", help="index of the GPU; by default the first one, else the CPU")
    place.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N")


def _add_set(result: argparse.ArgumentParser, what: str) -> None:
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=what)


def _whole(text: str, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
