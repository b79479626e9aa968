"""Nets that a study tries first: known by name, or kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vnas.config import StudyConfig
from vnas.errors import ArchitectureError, ConfigError
from vnas.evaluate import Candidate
from vnas.nets import Architecture
from vnas.search.space import draw_of


def preset_draws(config: StudyConfig, *, in_chans: int, num_classes: int) -> list[dict[str, Any]]:
    """The draws that name the presets of a study.

    Args:
        config: the study; its space must have the nets.
        in_chans: channels of the data.
        num_classes: classes of the data.

    Raises:
        ConfigError: a preset is no net, is for other data, or is not in the space.
    """
    return [
        draw_of(
            Candidate(_net(text, config, in_chans, num_classes).canonical(), config.training.anneal.canonical()),
            config.space,
        )
        for text in config.presets
    ]


def _net(text: str, config: StudyConfig, in_chans: int, num_classes: int) -> Architecture:
    try:
        if Path(text).is_file():
            net = Architecture.from_json(Path(text).read_text(encoding="utf-8"))
        else:
            size, dropout = config.space.image_size[0], config.space.dropout[0]
            net = Architecture.named(text, in_chans=in_chans, num_classes=num_classes, image_size=size, dropout=dropout)
    except (ArchitectureError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"presets: {text!r} is neither a file of an Architecture nor a known net: {error}") from error
    if (net.in_chans, net.num_classes) != (in_chans, num_classes):
        raise ConfigError(
            f"presets: {text} is for {net.in_chans} channels and {net.num_classes} classes; the data have {in_chans} "
            f"and {num_classes}"
        )
    return net
