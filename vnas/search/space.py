"""From an Optuna trial to a candidate: a fixed-length encoding of nets of variable depth.

Every trial suggests the same names, whatever its depth, so that model-based samplers see one rectangular space; the
stages past ``stages.count`` are drawn and left unused. A draw that cannot exist is mended to the nearest net that
can (stride 2 on a map that would vanish becomes 1, a residual whose shapes differ is dropped where the space has no
projection rule); different draws may so name the same candidate, and its digest tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from vnas.config import Anneal, SpaceConfig, StageSpace
from vnas.errors import ArchitectureError, ConfigError
from vnas.evaluate import Candidate
from vnas.nets import Architecture, Stage, Stem
from vnas.search.sampling.encoding import uniform

T = TypeVar("T")

STAGE_FIELDS = ("width", "stride", "series", "residual")
ANNEAL_FIELDS = ("shape", "start", "end", "steps", "stagger")


def choices(space: SpaceConfig) -> dict[str, tuple[Any, ...]]:
    """What each name may be, in the order of suggestion; names with a single choice are left out."""
    found: dict[str, tuple[Any, ...]] = {
        "image_size": space.image_size,
        "activation": space.activation,
        "dropout": space.dropout,
    }
    for name in ("kernel", "stride", "width", "series"):
        found[f"stem.{name}"] = getattr(space.stem, name)
    found["stages.count"] = space.stages.count
    for number in range(1, max(space.stages.count) + 1):
        for name in STAGE_FIELDS:
            found[f"stage{number}.{name}"] = getattr(space.stages, name)
    for name in ANNEAL_FIELDS:
        found[f"anneal.{name}"] = getattr(space.anneal, name) or ()
    return {name: values for name, values in found.items() if len(values) > 1}


def absent(draw: Mapping[str, Any], space: SpaceConfig) -> set[str]:
    """Names of :func:`choices` that a draw makes irrelevant."""
    count = draw.get("stages.count", space.stages.count[0])
    names = {
        f"stage{number}.{name}" for number in range(count + 1, max(space.stages.count) + 1) for name in STAGE_FIELDS
    }
    shape = draw.get("anneal.shape", (space.anneal.shape or ("",))[0])
    return names | ({"anneal.steps"} if shape and shape != "step" else set())


def draw_of(candidate: Candidate, space: SpaceConfig) -> dict[str, Any]:
    """The draw that names a candidate: the inverse of :func:`candidate_of`.

    Raises:
        ConfigError: the space does not have it; the message says in what.
    """
    arch = candidate.architecture
    wanted: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "image_size": (arch.image_size, space.image_size),
        "activation": (arch.activation, space.activation),
        "dropout": (arch.dropout, space.dropout),
    }
    for name in ("kernel", "stride", "width", "series"):
        wanted[f"stem.{name}"] = (getattr(arch.stem, name), getattr(space.stem, name))
    wanted["stages.count"] = (len(arch.stages), space.stages.count)
    for number in range(1, max(space.stages.count) + 1):
        for name in STAGE_FIELDS:
            options = getattr(space.stages, name)
            there = number <= len(arch.stages)
            wanted[f"stage{number}.{name}"] = (getattr(arch.stages[number - 1], name) if there else options[0], options)
    for name in ANNEAL_FIELDS:
        options = getattr(space.anneal, name)
        if options:
            value = getattr(candidate.anneal, name)
            wanted[f"anneal.{name}"] = (value if value in options else options[0], options)
    for name, (value, options) in wanted.items():
        if value not in options:
            raise ConfigError(
                f"search space {space.name} has no net {arch.describe()}: {name} = {value!r} is not one of "
                f"{', '.join(map(repr, options))}. Add it to the space, or leave the net out of presets"
            )
    drawn = {name: wanted[name][0] for name in choices(space)}
    found = candidate_of(
        drawn, space, in_chans=arch.in_chans, num_classes=arch.num_classes, anneal=candidate.anneal
    ).architecture
    if found != arch.canonical():
        raise ConfigError(
            f"search space {space.name} has no net {arch.describe()}: "
            f"{', '.join(_differences(arch.canonical().to_dict(), found.to_dict()))}. Leave the net out of presets"
        )
    return drawn


def _differences(wanted: Any, found: Any, name: str = "") -> Iterator[str]:
    """Where two nets as JSON values differ, in words."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        pairs = [(f"{name}.{key}".lstrip("."), key) for key in wanted]
    elif isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)) and len(wanted) == len(found):
        pairs = [(f"{name}.{index + 1}", index) for index in range(len(wanted))]
    else:
        if wanted != found:
            yield f"{name} = {wanted!r} is always {found!r} there"
        return
    for path, key in pairs:
        yield from _differences(wanted[key], found[key], path)


def size(space: SpaceConfig) -> int:
    """Number of distinct draws (an upper bound on distinct candidates: mended draws coincide)."""
    per_stage = math.prod(len(getattr(space.stages, name)) for name in STAGE_FIELDS)
    shared = math.prod(len(values) for name, values in choices(space).items() if not name.startswith("stage"))
    return int(shared * sum(per_stage**count for count in space.stages.count))


def stem_padding(kernel: int, stride: int) -> int:
    """Padding that makes a map of size s leave the stem with about s / stride (0 for the paper's 4x4/4)."""
    return (kernel - stride + 1) // 2 if kernel > stride else 0


def candidate_of(
    drawn: dict[str, Any], space: SpaceConfig, *, in_chans: int, num_classes: int, anneal: Anneal
) -> Candidate:
    """The candidate that a complete draw names.

    Args:
        drawn: a value for every name of :func:`choices`.
        space: the search space; its single choices fill in what is not drawn.
        in_chans: channels of the data.
        num_classes: classes of the data.
        anneal: the lambda schedule that the space's own choices are laid over.

    Raises:
        ConfigError: the space allows a stem that no image of this size passes.
    """

    def value(name: str, options: tuple[T, ...]) -> T:
        return drawn[name] if name in drawn else options[0]

    image_size = value("image_size", space.image_size)
    kernel, stride = value("stem.kernel", space.stem.kernel), value("stem.stride", space.stem.stride)
    stem = Stem(
        width=value("stem.width", space.stem.width),
        kernel=kernel,
        stride=stride,
        padding=stem_padding(kernel, stride),
        series=value("stem.series", space.stem.series),
    )
    map_size = (image_size + 2 * stem.padding - kernel) // stride + 1
    width = stem.width
    stages = []
    for number in range(1, value("stages.count", space.stages.count) + 1):
        stage = _stage(drawn, number, space.stages, space.projection, width, map_size)
        map_size //= stage.stride
        width = stage.width
        stages.append(stage)
    try:
        architecture = Architecture(
            stem=stem,
            stages=tuple(stages),
            activation=value("activation", space.activation),
            series_shift=space.series_shift,
            projection=space.projection,
            in_chans=in_chans,
            image_size=image_size,
            num_classes=num_classes,
            dropout=value("dropout", space.dropout),
        )
    except ArchitectureError as error:
        raise ConfigError(f"search space {space.name} allows a net that cannot exist: {error}") from error
    return Candidate(architecture.canonical(), _anneal(drawn, space, anneal))


def _stage(
    drawn: dict[str, Any], number: int, options: StageSpace, projection: str, width_in: int, map_size: int
) -> Stage:
    width, stride, series, residual = (
        drawn.get(f"stage{number}.{name}", getattr(options, name)[0]) for name in STAGE_FIELDS
    )
    if map_size < 2:
        stride = 1
    # Before the activation the shortcut joins ahead of the pool, so only the widths have to agree.
    same = width == width_in and (stride == 1 or residual == "before_activation")
    if residual != "none" and not same and projection == "none":
        residual = "none"
    return Stage(width=width, stride=stride, series=series, residual=residual)


def _anneal(drawn: dict[str, Any], space: SpaceConfig, base: Anneal) -> Anneal:
    changes: dict[str, Any] = {}
    for name in ANNEAL_FIELDS:
        options = getattr(space.anneal, name)
        if options:
            changes[name] = drawn.get(f"anneal.{name}", options[0])
    mended = base.model_copy(update=changes)
    if mended.start >= mended.end:
        mended = mended.model_copy(update={"start": 0.0})
    if mended.end + mended.stagger > 1.0:
        mended = mended.model_copy(update={"stagger": 1.0 - mended.end})
    return Anneal.model_validate(mended.canonical().model_dump())


def random_draw(space: SpaceConfig, seed: Sequence[int]) -> dict[str, Any]:
    """A value for every name of :func:`choices`, each independent and uniform."""
    return uniform(choices(space), np.random.default_rng(list(seed)))


def check(space: SpaceConfig, *, in_chans: int, num_classes: int, anneal: Anneal) -> None:
    """Try every stem with every image size before a study starts, so that no trial fails on the space itself.

    Raises:
        ConfigError: some combination cannot exist; the message names it.
    """
    for drawn in _corners(space):
        candidate_of(drawn, space, in_chans=in_chans, num_classes=num_classes, anneal=anneal)


def _corners(space: SpaceConfig) -> Iterator[dict[str, Any]]:
    for image_size in space.image_size:
        for kernel in space.stem.kernel:
            for stride in space.stem.stride:
                for activation in space.activation:
                    yield {
                        "image_size": image_size,
                        "stem.kernel": kernel,
                        "stem.stride": stride,
                        "activation": activation,
                        "stages.count": max(space.stages.count),
                    }
