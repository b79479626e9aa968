"""``python -m vnas.training evaluate``: accuracy of stored weights."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from vnas.config import DataConfig, read_toml
from vnas.errors import EXIT_DONE, EXIT_INTERRUPTED, ArchitectureError, UsageError
from vnas.nets import Architecture, FusedVanillaNet, VanillaNet, load_checkpoint
from vnas.profiler.allocator import keep_freed_memory
from vnas.profiler.devices import resolve_device
from vnas.profiler.results import write_whole
from vnas.profiler.terminal import device_line
from vnas.training.command.plan import TRAIN_TOML, find_architecture
from vnas.training.command.recipes import data_table
from vnas.training.command.terminal import Terminal
from vnas.training.fit import check_fit
from vnas.training.images.data import Data, Split, open_data
from vnas.training.images.folders import TEST_NAMES, VALIDATION_NAMES
from vnas.training.judging import judge

PARTS: tuple[Split, ...] = get_args(Split)


def run(asked: argparse.Namespace) -> int:
    """Judge the weights; returns the exit code.

    Raises:
        VnasError: what was asked for cannot be done.
    """
    keep_freed_memory()
    terminal = Terminal()
    device = resolve_device(asked.gpu, asked.device)
    terminal.say(device_line(device, None))
    data = open_data(data_config(asked))
    net = load(asked, data)
    arch = net.architecture
    if asked.image_size is not None:
        arch = replace(arch, image_size=asked.image_size)  # which says so where the net cannot take it
    split = asked.split or usual_split(asked.data or data.source)
    terminal.say(f"net: {asked.weights}: {described(net)}", f"images: {data.source}: {images_line(data, split)}")
    try:
        loaders = [data.loader(part, arch.image_size, device=device) for part in parts_of(split)]
        found = judge(net.to(device), loaders, device)
    except KeyboardInterrupt:
        terminal.complain("interrupted: nothing was written")
        return EXIT_INTERRUPTED
    top5 = "" if found.top5 is None else f", top-5 {found.top5:.2f} %"
    terminal.say(f"top-1 {found.top1:.2f} %{top5}, {found.images} images of {arch.image_size} px, {split}")
    if asked.json is not None:
        told = {
            "weights": str(asked.weights),
            "form": net.form,
            "architecture": net.architecture.to_dict(),
            "data": data.config.model_dump(mode="json"),
            "fingerprint": data.fingerprint,
            "split": split,
            "image_size": arch.image_size,
            **asdict(found),
        }
        write_whole(asked.json, (json.dumps(told, indent=2) + "\n").encode())
    return EXIT_DONE


def data_config(asked: argparse.Namespace) -> DataConfig:
    """Source and cuts: those of the run that lies beside the weights where it had the same source, else the defaults.

    Raises:
        UsageError: no source is named and none lies beside the weights.
        ConfigError: a ``--set`` is not allowed, or what lies beside the weights is not TOML.
    """
    table: dict[str, Any] = {}
    beside = asked.weights.parent / TRAIN_TOML
    if beside.is_file():
        stored = read_toml(beside).get("data", {})
        if asked.data in (None, stored.get("source")):
            table = stored
    if asked.data is not None:
        table = {**table, "source": asked.data}
    if "source" not in table:
        raise UsageError(f"there is no {TRAIN_TOML} beside {asked.weights} that names the images; type --data SOURCE")
    return data_table(table, asked.set)


def load(asked: argparse.Namespace, data: Data) -> VanillaNet | FusedVanillaNet:
    """The net with the weights, on the CPU.

    Raises:
        UsageError: a .pth without ``--net``, or a net that does not fit the images.
        CheckpointError: the file cannot be read, or its weights do not fit.
    """
    arch: Architecture | None = None
    if asked.net is not None:
        arch = find_architecture(asked.net, num_classes=data.num_classes, in_chans=data.in_chans)
    elif asked.weights.suffix != ".safetensors":
        raise UsageError(f"{asked.weights} does not say what net it belongs to; type for example --net vanillanet_6")
    net = load_checkpoint(asked.weights, arch, key=asked.key)
    try:
        check_fit(net.architecture, data)
    except ArchitectureError as error:
        raise UsageError(f"{asked.weights}: {error}; give other --data") from error
    return net


def usual_split(source: str) -> str:
    """``all`` of a folder or tar that is named like a validation or test set, else ``test``."""
    name = Path(source).name.removesuffix(".tar")
    return "all" if name in (*VALIDATION_NAMES, *TEST_NAMES) else "test"


def parts_of(split: str) -> tuple[Split, ...]:
    """The sets that a ``--split`` stands for."""
    return tuple(part for part in PARTS if split in (part, "all"))


def images_line(data: Data, split: str) -> str:
    """Which images, and where they come from."""
    parts = parts_of(split)
    if len(parts) > 1:
        return f"all {sum(data.counts[part] for part in parts)} images"
    return f"{data.counts[parts[0]]} images of the {split} set, {data.splits[parts[0]]}"


def described(net: VanillaNet | FusedVanillaNet) -> str:
    """Form, lambda where it is not 1, and shape."""
    below = [slope for slope in (net.slopes if isinstance(net, VanillaNet) else ()) if slope != 1.0]
    at = f" at lambda {min(below):.3g}" if below else ""
    return f"{net.form} form{at}, {net.architecture.describe()}"
