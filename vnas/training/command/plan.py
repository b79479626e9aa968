"""A training run as asked for: which net, which recipe, which directory; and whether it may begin or go on there."""

from __future__ import annotations

import argparse
import shlex
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from vnas.config import differences, read_toml
from vnas.errors import ConfigError, ResumeError, UsageError, nearest
from vnas.nets import Architecture
from vnas.nets.presets import PRESETS
from vnas.training.command.recipes import Recipe
from vnas.training.images.data import Data

TRAIN_TOML = "train.toml"
RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"

_MAY_CHANGE = frozenset(
    f"data.{name}" for name in ("workers", "cache", "cache_limit_mib", "pipeline", "resident_limit_mib")
)
"""On resume: what does not change the result. The pipeline that the run was begun with is in its checkpoint."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes.

    Attributes:
        net: as it was typed.
        architecture: what that stands for, with the data's classes and channels.
        recipe: filled in for the net.
        seed: of weights, order and augmentation.
        world: processes that share each batch.
    """

    net: str
    architecture: Architecture
    recipe: Recipe
    seed: int
    world: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As plain values for TOML."""
        arch = self.architecture
        own = {"net": self.net, "digest": arch.digest, "image_size": arch.image_size, "seed": self.seed}
        return {**own, "processes": self.world, **self.recipe.to_dict()}


def find_architecture(
    text: str, *, num_classes: int, in_chans: int, image_size: int | None = None, dropout: float = 0.0
) -> Architecture:
    """The architecture that a NET stands for.

    Args:
        text: a preset, or a FILE.json, which has its own classes, channels and image size.
        num_classes: of the data, for a preset.
        in_chans: of the data, for a preset.
        image_size: pixels; by default the preset's.
        dropout: before the classifier; 0 leaves a file's own rate.

    Raises:
        UsageError: nothing of that name, or a file that cannot be read.
        ArchitectureError: it cannot exist at this image size.
    """
    if text.endswith(".json"):
        try:
            content = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{text} cannot be read: {error}") from error
        found = Architecture.from_json(content)
        if image_size is not None and image_size != found.image_size:
            raise UsageError(
                f"{text} is an architecture for {found.image_size} px; leave out --image-size {image_size}"
            )
        return replace(found, dropout=dropout) if dropout else found
    if text not in PRESETS:
        raise UsageError(
            f"NET {text!r} is not known; a NET is {', '.join(PRESETS)}, or an architecture FILE.json."
            f"{nearest(text, PRESETS)}"
        )
    return Architecture.named(text, num_classes=num_classes, image_size=image_size, in_chans=in_chans, dropout=dropout)


def check_directory(out: Path, *, resume: bool) -> bool:
    """Whether there is a run in a directory to go on with.

    Raises:
        ResumeError: there is one, and it was not asked to go on.
        UsageError: it is no directory.
    """
    first = next((path for path in (out, *out.absolute().parents) if path.exists()), None)
    if first is not None and not first.is_dir():
        raise UsageError(f"--out {out}: {first} is a file; give a directory")
    exists = (out / TRAIN_TOML).is_file()
    if exists and not resume:
        raise ResumeError(
            f"{out} already holds a training run. Add --resume to go on with it, or --out DIR to start another"
        )
    return exists


def check_same(out: Path, plan: Plan) -> None:
    """Refuse to go on with another run than the one that a directory holds.

    Raises:
        ResumeError: names the fields that differ.
    """
    path = out / TRAIN_TOML
    try:
        before = read_toml(path)
    except ConfigError as error:
        raise ResumeError(f"{error}; give --out DIR to start another run") from error
    changed = [
        f"{name}: {old} -> {new}"
        for name, (old, new) in differences(before, tomllib.loads(to_toml(plan))).items()
        if name not in _MAY_CHANGE
    ]
    if changed:
        raise ResumeError(
            f"the run in {out} cannot go on as another one. Changed: {'; '.join(changed)}. Type what was typed then, "
            "or give --out DIR to start another"
        )


def to_toml(plan: Plan) -> str:
    """The plan as TOML; as a recipe file it gives the same training again."""
    return tomli_w.dumps(plan.to_dict())


def resume_command(asked: argparse.Namespace, out: Path, world: int) -> str:
    """The command that goes on with a run."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    start = [str(python)] if world == 1 else ["torchrun", "--nproc-per-node", str(world)]
    words = [*start, "-m", "vnas.training", asked.net, "--data", asked.data, "--recipe", asked.recipe]
    for flag, value in (
        ("--gpu", asked.gpu),
        ("--device", asked.device),
        ("--epochs", asked.epochs),
        ("--image-size", asked.image_size),
    ):
        if value is not None:
            words += [flag, str(value)]
    words += ["--seed", str(asked.seed)]
    for flag, given in (("--tensorboard", asked.tensorboard), ("--sync-norms", asked.sync_norms)):
        words += [flag] if given else []
    for assignment in asked.set:
        words += ["--set", assignment]
    return shlex.join([*words, "--out", str(out), "--resume"])


def size_note(data: Data, image_size: int) -> str | None:
    """What to say where images are enlarged a lot, which costs time and adds nothing."""
    height, width = data.native_size
    if 4 * min(height, width) > image_size:
        return None
    return f"the images are {height} x {width} px, enlarged to {image_size} px; a smaller --image-size trains faster"
