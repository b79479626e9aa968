"""Weights on disk: this project's .safetensors, written whole or not at all, and the official .pth."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vnas import __version__
from vnas.errors import ArchitectureError, CheckpointError, nearest
from vnas.nets.architecture import Architecture
from vnas.nets.base import PlainNet
from vnas.nets.fused import FusedVanillaNet
from vnas.nets.official import is_deployed, renamed
from vnas.nets.vanillanet import VanillaNet

FORMS = ("training", "merged", "fused")

_OFFICIAL_KEYS = ("model_ema", "model", "state_dict")
_SHOWN = 5


def save_weights(net: VanillaNet | FusedVanillaNet, path: str | os.PathLike[str]) -> None:
    """Write the weights, slopes included, with the form, the architecture and the version in the file's metadata.

    The file appears complete or not at all: it is written beside its place, synchronised to the disk, then renamed.

    Args:
        net: A net of either class, in any form and layout, on any device.
        path: Where to, usually ending in .safetensors; its folder must exist.

    Raises:
        CheckpointError: The file cannot be written, or the net no longer is what its architecture says (pruned).
    """
    target = Path(path)
    state = {name: weight.detach().contiguous() for name, weight in net.state_dict().items()}
    _check_fit(_empty(net.architecture, net.form), state, "the net")
    metadata = {"form": net.form, "architecture": net.architecture.to_json(), "vnas": __version__}
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        try:
            partial.touch()
            mode = partial.stat().st_mode
            save_file(state, partial, metadata)
            partial.chmod(mode)  # save_file leaves the file to its owner alone, whatever the umask
            _sync(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {target}: {error}") from error


def load_checkpoint(
    path: str | os.PathLike[str], arch: Architecture | None = None, *, key: str | None = None
) -> VanillaNet | FusedVanillaNet:
    """A net with the weights of a file, on the CPU, in eval mode and in the file's dtype.

    A .safetensors file of this project says its form and architecture. A .pth file of the official code holds either
    form. The official training form does not hold lambda: a finished run has lambda = 1, so every slope becomes 1, and
    weights saved in the middle of a schedule give other outputs than they did there. Only tensors and plain values are
    unpickled, never code.

    Args:
        path: The file.
        arch: What the weights belong to; None takes it from a .safetensors file. One that differs from the file's only
            in image_size or dropout is taken.
        key: Entry of a .pth file that holds the weights; None takes the first of model_ema, model and state_dict, or
            the file itself.

    Returns:
        A VanillaNet for the training and merged forms, a FusedVanillaNet for the fused form.

    Raises:
        CheckpointError: The file cannot be read, or its weights do not fit the architecture; the message names the
            keys.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"there is no file {source}; give a .safetensors or .pth file")
    if source.suffix == ".safetensors":
        return _load_own(source, arch)
    if arch is None:
        raise CheckpointError(
            f'{source} does not say its architecture; give one, such as Architecture.named("vanillanet_6")'
        )
    state = _read_pickle(source, key)
    form = "fused" if is_deployed(state) else "training"
    for name, own in (("stem.conv.weight", "fused"), ("stem.pair.conv.weight", "merged")):
        form = own if name in state else form
    return _filled(arch, form, renamed(state), source)


def _load_own(source: Path, arch: Architecture | None) -> VanillaNet | FusedVanillaNet:
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {source}: {error}") from error
    form = metadata.get("form", "")
    if form not in FORMS or "architecture" not in metadata:
        raise CheckpointError(
            f"{source} was not written by vnas.nets.save_weights: its metadata holds "
            f"{', '.join(metadata) or 'nothing'}, not a form ({', '.join(FORMS)}) and an architecture"
        )
    try:
        stored = Architecture.from_json(metadata["architecture"])
    except ArchitectureError as error:
        raise CheckpointError(f"{source} holds an architecture that cannot be read: {error}") from error
    if arch is not None:
        differing = _differences(stored, arch)
        if differing:
            raise CheckpointError(
                f"{source} holds another architecture: {'; '.join(differing)}; leave arch out to take the file's"
            )
    return _filled(stored if arch is None else arch, form, state, source)


def _differences(stored: Architecture, asked: Architecture) -> list[str]:
    """Fields that change what the weights mean and differ; image size and dropout do not."""
    left, right = stored.canonical().to_dict(), asked.canonical().to_dict()
    return [
        f"{name} is {json.dumps(left[name])}, asked for was {json.dumps(right[name])}"
        for name in left
        if name not in ("image_size", "dropout") and left[name] != right[name]
    ]


def _read_pickle(source: Path, key: str | None) -> dict[str, Tensor]:
    try:
        # The official training script stores its command line beside the weights; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read {source}: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds a {type(content).__name__}; it must hold a dictionary of weights")
    if key is None:
        key = next((k for k in _OFFICIAL_KEYS if isinstance(content.get(k), Mapping)), None)
    elif key not in content:
        words = [str(k) for k in content]
        raise CheckpointError(f"{source} has no entry {key!r}; it has {_some(words)}.{nearest(key, words)}")
    state = content if key is None else content[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        where = "" if key is None else f" under {key!r}"
        words = [str(k) for k in content]
        raise CheckpointError(f"{source} holds no weights{where}; its entries are {_some(words)}")
    return {str(name).removeprefix("module."): weight for name, weight in state.items()}


def _filled(arch: Architecture, form: str, state: dict[str, Tensor], source: Path) -> VanillaNet | FusedVanillaNet:
    net = _empty(arch, form)
    _check_fit(net, state, str(source))
    dtype = next(weight.dtype for weight in state.values() if weight.is_floating_point())
    net = net.to(dtype).to_empty(device="cpu")
    net.load_state_dict(state)
    return net.eval()


def _empty(arch: Architecture, form: str) -> VanillaNet | FusedVanillaNet:
    if form == "fused":
        return FusedVanillaNet(arch, device="meta")
    return VanillaNet(arch, merged=form == "merged", device="meta")


def _check_fit(net: PlainNet, state: Mapping[str, Tensor], whose: str) -> None:
    """Raise CheckpointError, naming keys, unless ``state`` has exactly the weights of ``net``."""
    wanted = net.state_dict()
    problems = []
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(weight.shape)}"
        for name, weight in wanted.items()
        if name in state and state[name].shape != weight.shape
    ]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            problems.append(f"{label}: {_some(names)}")
    if problems:
        raise CheckpointError(
            f"the weights of {whose} do not fit {net.architecture.describe()} ({net.architecture.num_classes} classes, "
            f"{net.architecture.in_chans} input channels); {'; '.join(problems)}"
        )


def _some(names: list[str]) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sync(path: Path) -> None:
    """Ask the system to put a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
