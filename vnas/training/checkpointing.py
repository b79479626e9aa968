"""A run on disk, so that one that was killed goes on: written whole or not at all, read without running any code.

    fit(net, data, config, seed=0, device=device, checkpoint=Checkpoint(Path("run.pt")))

The same call again goes on from the file if there is one. It holds all that the next step depends on: weights with
their lambda, their average, the optimiser, scaled gradients, the place in the data, every random stream; and what was
seen so far. On the CPU a run that goes on gives the fused net of one that was never stopped, bit for bit.

Where images are streamed, the pipeline is ahead of the net, and a file is written between two epochs only. Its worker
processes (``data.workers``) have random streams of their own, which no file holds: with them, the images come in the
same order again, but augmented otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vnas.config import TrainingConfig, differences, flat
from vnas.errors import CheckpointError, ResumeError
from vnas.nets import Architecture
from vnas.training.images.data import Data

FORMAT = 1

# What torch.load raises for a file that is damaged, or is something else.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is kept, and how often.

    Attributes:
        path: of the file; its folder is made where it is missing.
        seconds: least time between two writings; 0 writes after every look at the loss.
    """

    path: Path
    seconds: float = 60.0


class Saver:
    """Reads and writes one run's file.

    Args:
        checkpoint: where and how often, or None for never.
        identity: all that decides what the run computes, as plain values by dotted name.
        writes: False in a process that only reads.
    """

    def __init__(self, checkpoint: Checkpoint | None, identity: Mapping[str, object], *, writes: bool = True) -> None:
        self._checkpoint = checkpoint
        self._identity = dict(identity)
        self._writes = writes and checkpoint is not None
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was written last; None where nothing was.

        Raises:
            CheckpointError: the file cannot be read.
            ResumeError: it is another run's; the message names what differs.
        """
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return None
        path = self._checkpoint.path
        try:
            _check_sums(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint ({_first_line(error)}); delete it to start the run anew"
            ) from error
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if found != FORMAT or not {"identity", "state"} <= content.keys():
            raise CheckpointError(
                f"{path} is not a checkpoint of format {FORMAT} (found {found!r}); delete it to start the run anew"
            )
        self._check(content["identity"], path)
        state: dict[str, Any] = content["state"]
        return state

    def save_if_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the state where the time has come.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if self._checkpoint is not None and time.monotonic() - self._written >= self._checkpoint.seconds:
            self.save(state)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the state: beside its place, synchronised to the disk, then renamed.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if self._checkpoint is None or not self._writes:
            return
        path = self._checkpoint.path
        part = path.with_name(f".{path.name}.part")  # one name, so that one left by a kill is written over
        content = {"format": FORMAT, "identity": self._identity, "state": dict(state())}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    torch.save(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot write {path}: {_first_line(error)}") from error
        self._written = time.monotonic()

    def _check(self, before: Mapping[str, object], path: Path) -> None:
        changed = [
            f"{name} was {old!r} and is {new!r}" for name, (old, new) in differences(before, self._identity).items()
        ]
        if changed:
            raise ResumeError(
                f"{path} holds another run: {'; '.join(changed)}. Go on with what it was begun with, or give another "
                "path (or delete the file) to start anew"
            )


def identity(
    arch: Architecture,
    data: Data,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    pipeline: str,
    weights: str | None,
    processes: int = 1,
) -> dict[str, object]:
    """All that decides what a run computes, as plain values by dotted name.

    Args:
        arch: of the net.
        data: known by its fingerprint.
        config: the recipe.
        seed: of the run.
        device: its kind counts, as a GPU's random numbers are others.
        pipeline: ``resident`` or ``streaming``, whose orders differ.
        weights: digest of the weights to begin with, or None where the seed decides them.
        processes: that share each batch.
    """
    tables = {"architecture": arch.to_dict(), "training": config.model_dump(mode="json")}
    return {
        **dict(flat(json.loads(json.dumps(tables)))),
        "data": data.fingerprint,
        "seed": seed,
        "device": device.type,
        "pipeline": pipeline,
        "weights": weights,
        "processes": processes,
    }


def weights_digest(net: nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of every parameter and buffer, in order."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_sums(path: Path) -> None:
    """Compare the file with the checksums in it, which torch writes and does not read."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {bad}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
