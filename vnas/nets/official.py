"""The names that the official code gives to weights, in both of its forms, and ours for the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_TRAINING = (
    (r"stem1\.0\.", "stem.pair.conv1."),
    (r"stem1\.1\.", "stem.pair.bn1."),
    (r"stem2\.0\.", "stem.pair.conv2."),
    (r"stem2\.1\.", "stem.pair.bn2."),
    (r"stem2\.2\.weight$", "stem.act.conv.weight"),
    (r"stem2\.2\.bn\.", "stem.act.bn."),
    (r"stages\.(\d+)\.conv([12])\.0\.", r"stages.\1.pair.conv\2."),
    (r"stages\.(\d+)\.conv([12])\.1\.", r"stages.\1.pair.bn\2."),
    (r"stages\.(\d+)\.act\.weight$", r"stages.\1.act.conv.weight"),
    (r"cls1\.2\.", "head.fc.conv1."),
    (r"cls1\.3\.", "head.fc.bn1."),
    (r"cls2\.0\.", "head.fc.conv2."),
)
_DEPLOYED = (
    (r"stem\.0\.", "stem.conv."),
    (r"stem\.1\.", "stem.act.conv."),
    (r"stages\.(\d+)\.act\.(weight|bias)$", r"stages.\1.act.conv.\2"),
    (r"cls\.2\.", "head.fc."),
)


def is_training(state: Mapping[str, Tensor]) -> bool:
    """Whether these are official weights of the training form."""
    return any(name.startswith("stem1.") for name in state)


def is_deployed(state: Mapping[str, Tensor]) -> bool:
    """Whether these are official weights of the deployed form."""
    return any(name.startswith("stem.0.") for name in state)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under this project's names; any other weights as they are.

    The official code keeps lambda outside its weights. A finished training run has reached 1, so the training form gets
    slopes of 1; weights from the middle of a schedule cannot be told apart from these.
    """
    if is_training(state):
        return _renamed(state, _TRAINING) | _slopes(state)
    if is_deployed(state):
        return _renamed(state, _DEPLOYED)
    return dict(state)


def _renamed(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, weight in state.items():
        for pattern, ours in rules:
            new, hits = re.subn("^" + pattern, ours, name)
            if hits:
                break
        else:
            new = name
        found[new] = weight
    return found


def _slopes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slope of 1 for each first convolution of a pair."""
    firsts = {"stem1.0.weight": "stem.pair", "cls1.2.weight": "head.fc"}
    found = {}
    for name, weight in state.items():
        stage = re.fullmatch(r"(stages\.\d+)\.conv1\.0\.weight", name)
        pair = f"{stage[1]}.pair" if stage else firsts.get(name)
        if pair is not None:
            found[f"{pair}.act.slope"] = weight.new_ones(1)
    return found
