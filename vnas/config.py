"""What may vary and what to run: frozen, strict configuration, read from TOML.

A study file names a search space (or holds one inline). Lists in a space are choices; a single value is a
fixed one. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vnas.errors import ConfigError, nearest

Residual = Literal["none", "before_activation", "after_activation"]
Shape = Literal["linear", "cosine", "step"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]

T = TypeVar("T")


def _as_choices(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Choices = Annotated[tuple[T, ...], BeforeValidator(_as_choices), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Options(_Strict):
    """A table in which every tuple field is a set of choices."""

    @model_validator(mode="after")
    def _no_choice_twice(self) -> _Options:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(set(value)) < len(value):
                raise ValueError(f"{name} = {list(value)} lists a choice twice")
        return self


class Anneal(_Strict):
    """A lambda schedule: how the slope of the inner activations goes from 0 to 1.

    Attributes:
        shape: ``linear``, ``cosine`` (0.5 (1 - cos(pi t))) or ``step`` (``steps`` equal jumps).
        start: share of the run at which lambda leaves 0.
        end: share of the run at which lambda reaches 1 (the paper: a third).
        steps: number of jumps, for ``step`` only.
        stagger: share of the run by which the last pair's window starts after the first pair's (0: all
            together); the windows of the pairs between are spread evenly.
        order: which end of the net goes first when staggered.
    """

    shape: Shape = "linear"
    start: Share = 0.0
    end: Share = 1.0 / 3.0
    steps: Positive = 1
    stagger: Share = 0.0
    order: Literal["shallow_first", "deep_first"] = "shallow_first"

    @model_validator(mode="after")
    def _window(self) -> Anneal:
        if self.start >= self.end:
            raise ValueError(f"start = {self.start} must be less than end = {self.end}")
        if self.end + self.stagger > 1.0 + 1e-9:
            raise ValueError(
                f"end + stagger = {self.end + self.stagger:.3g} is past the end of the run; they may add up to 1"
            )
        return self

    def canonical(self) -> Anneal:
        """The same schedule with every field that has no effect at its default."""
        changes: dict[str, object] = {}
        if self.shape != "step":
            changes["steps"] = 1
        elif self.steps == 1:
            changes["start"] = 0.0  # one jump, at the end of the window: where the window starts is moot
        if self.stagger == 0.0:
            changes["order"] = "shallow_first"
        return self.model_copy(update=changes)


PAPER_ANNEAL = Anneal()


def _anneal_by_name(value: object) -> object:
    if value == "paper":
        return PAPER_ANNEAL.model_dump()
    if isinstance(value, str):
        raise ValueError(f'{value!r} is not a lambda schedule; write "paper" or a table with shape, start and end')
    return value


class TrainingConfig(_Strict):
    """One training run. Times are in epochs, learning rates for the batch size given.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step, over all processes together.
        init: weights to start from: ``default`` (the official code's) or ``identity`` (kernels that hand on what they
            get, as far as their form allows it).
        optimizer: ``adamw``, ``sgd`` (with Nesterov momentum), ``lamb``, or ``orthogonal``: kernels that mix channels
            move along their momentum made orthogonal, the rest is ``adamw``'s.
        lr: highest learning rate.
        adamw_lr: the same of what ``orthogonal`` leaves to AdamW; it rises and falls with ``lr``.
        min_lr: learning rate of the last step.
        lr_shape: how it falls from the one to the other: ``cosine`` (half a period) or ``linear``.
        weight_decay: of all parameters of more than one dimension.
        momentum: of ``sgd`` and ``orthogonal``.
        layer_decay: factor by which the learning rate falls from each layer to the one before it.
        warmup_epochs: length of the linear warm-up; at most half of the run.
        loss: ``cross_entropy``, or ``bce`` (one binary cross entropy a class).
        label_smoothing: share of each label that is spread over all classes.
        anneal: how lambda goes from 0 to 1; ``paper`` for the paper's schedule.
        merge: make each pair one convolution as soon as its lambda is 1, and train on as that.
        flip: mirror each image with probability one half; ``alternating``: in every second pass, half of the images in
            the one, the others in the other (resident pipeline only).
        crop_padding: pixels by which an image moves at most, up or down and to either side.
        crop_fill: what comes in where an image has moved: ``black``, or its own border mirrored (``reflect``).
        cutout: side in pixels of a square that is set to the mean in each image; 0 for none.
        mixup: alpha of the Beta distribution that two images are blended by; 0 for none.
        cutmix: alpha of the Beta distribution of the share that another image's rectangle takes; 0 for none.
        mixup_switch: probability of cutmix where a recipe has both.
        rand_augment: timm's text for RandAugment, such as ``rand-m7-mstd0.5-inc1`` (streaming pipeline only).
        color_jitter: strength of the random change of brightness, contrast and saturation (streaming pipeline only).
        random_erasing: probability that a rectangle of an image becomes noise.
        random_resized_crop: train on random parts of an image, resized (streaming pipeline only).
        ema_decay: of the running average of the weights, which is then the net that is judged.
        amp: mixed precision: ``false``, ``bf16``, ``fp16`` (with scaled gradients), ``true`` (on a GPU the first of
            these two that it has; a CPU stays at float32), or ``auto``: where it is measured to be faster. Not given:
            ``auto`` on a GPU, ``false`` on a CPU.
        channels_last: images and weights in the order that convolutions on most devices prefer: ``true``, ``false`` or
            ``auto``. Not given: ``auto`` on a GPU, ``true`` on a CPU.
        compile: train a net that torch.compile has compiled: ``true``, ``false``, or ``auto``: where it is measured to
            be faster by more than compiling costs. Not given: ``auto`` on a GPU, ``false`` on a CPU. With ``auto`` the
            same seed need not give the same weights again.
        clip_grad: norm that the gradient is clipped to.
    """

    epochs: Positive = 10
    batch_size: Positive = 128
    init: Literal["default", "identity"] = "default"
    optimizer: Literal["adamw", "sgd", "lamb", "orthogonal"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 2e-3
    adamw_lr: Annotated[float, Field(gt=0)] = 3e-3
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    lr_shape: Literal["cosine", "linear"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    anneal: Annotated[Anneal, BeforeValidator(_anneal_by_name)] = PAPER_ANNEAL
    merge: bool = False
    flip: bool | Literal["alternating"] = True
    crop_padding: NonNegative = 0
    crop_fill: Literal["black", "reflect"] = "black"
    cutout: NonNegative = 0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    mixup_switch: Share = 0.5
    rand_augment: str | None = None
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    random_erasing: Share = 0.0
    random_resized_crop: bool = False
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    amp: bool | Literal["auto", "bf16", "fp16"] | None = None
    channels_last: bool | Literal["auto"] | None = None
    compile: bool | Literal["auto"] | None = None
    clip_grad: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr = {self.min_lr} must not exceed lr = {self.lr}")
        return self


class DataConfig(_Strict):
    """Where the images come from and how they reach the net.

    Attributes:
        source: ``digits`` or whatever timm's ``create_dataset`` reads.
        validation_share: share of the training set held out to choose nets by.
        test_share: share cut off as a test set where the source has none.
        split_seed: seed of both cuts.
        pipeline: ``resident`` (decoded once, augmented in batches), ``streaming`` (timm's loader) or ``auto``.
        resident_limit_mib: largest decoded set that ``auto`` keeps in memory, where the device has as much free.
        workers: loader processes of the streaming pipeline.
        cache: keep decoded images in a folder, so that the next run need not decode them.
        cache_limit_mib: most that this folder may hold; the sets that were not used for longest make room.
    """

    source: str = "digits"
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    split_seed: NonNegative = 0
    pipeline: Literal["auto", "resident", "streaming"] = "auto"
    resident_limit_mib: Positive = 2048
    workers: NonNegative = 2
    cache: bool = True
    cache_limit_mib: Positive = 8192


class LatencyConfig(_Strict):
    """How the fused net is timed, at batch 1."""

    target_relative: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_samples: Annotated[int, Field(ge=10)] = 50
    min_seconds: Annotated[float, Field(ge=0)] = 0.5
    max_seconds: Annotated[float, Field(gt=0)] = 15.0
    threads: Positive | None = None
    channels_last: bool = False
    budget_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LatencyConfig:
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds = {self.min_seconds} exceeds max_seconds = {self.max_seconds}")
        return self


class FrontConfig(_Strict):
    """The last step: the nets of the front, trained anew and judged on the test set.

    Attributes:
        seeds: training runs a net.
        epochs_factor: length of each run, as a multiple of ``training.epochs``.
        max_nets: nets of the front that are retrained: those that add most hypervolume.
    """

    seeds: Positive = 3
    epochs_factor: Annotated[float, Field(ge=1)] = 3.0
    max_nets: Positive = 6


class StemSpace(_Options):
    """Choices for the first convolution; its padding follows from kernel and stride."""

    kernel: Choices[Positive] = (4,)
    stride: Choices[Positive] = (4,)
    width: Choices[Positive]
    series: Choices[NonNegative] = (3,)


class StageSpace(_Options):
    """Choices for each stage; ``count`` lists the numbers of stages a net may have."""

    count: Choices[Positive]
    width: Choices[Positive]
    stride: Choices[Literal[1, 2]] = (1, 2)
    series: Choices[NonNegative] = (3,)
    residual: Choices[Residual] = ("none",)


class AnnealSpace(_Options):
    """Choices for the lambda schedule; what is left out comes from ``training.anneal``."""

    shape: Choices[Shape] | None = None
    start: Choices[Share] | None = None
    end: Choices[Annotated[float, Field(gt=0, le=1)]] | None = None
    steps: Choices[Positive] | None = None
    stagger: Choices[Share] | None = None


class SpaceConfig(_Options):
    """A search space: what may vary in a candidate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    image_size: Choices[Positive]
    activation: Choices[str] = ("relu",)
    projection: Literal["none", "pad", "conv"] = "none"
    series_shift: bool = False
    dropout: Choices[Annotated[float, Field(ge=0, lt=1)]] = (0.0,)
    stem: StemSpace
    stages: StageSpace
    anneal: AnnealSpace = AnnealSpace()


class StudyConfig(_Strict):
    """Everything that decides what a study computes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    space: SpaceConfig
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    latency: LatencyConfig = LatencyConfig()
    front: FrontConfig = FrontConfig()
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    trials: Positive = 24
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    seed: NonNegative = 0

    def to_toml(self) -> str:
        """The study, space included, as TOML that :func:`load_study` reads back to an equal value."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


# What may change when a study is resumed: how long to go on and where copies lie, not what a trial means.
MAY_CHANGE_ON_RESUME = frozenset({"trials", "time_limit_minutes", "data.cache", "data.cache_limit_mib"})


def changed_fields(before: StudyConfig, after: StudyConfig) -> dict[str, tuple[object, object]]:
    """Old and new value of the fields that differ, by dotted name, apart from those that may change on resume."""

    def flat(value: object, path: str) -> Iterable[tuple[str, object]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from flat(inner, f"{path}.{key}" if path else str(key))
        else:
            yield path, value

    old, new = (dict(flat(study.model_dump(mode="json"), "")) for study in (before, after))
    return {
        path: (old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and path not in MAY_CHANGE_ON_RESUME
    }


def config_files(kind: Literal["studies", "search_spaces"]) -> dict[str, Path]:
    """The shipped files of a kind by name, from an installed wheel or from a checkout."""
    package = Path(__file__).parent
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def _read(name_or_path: str, kind: Literal["studies", "search_spaces"]) -> dict[str, Any]:
    shipped = config_files(kind)
    path = shipped.get(name_or_path, Path(name_or_path))
    what = {"studies": "study", "search_spaces": "search space"}[kind]
    if not path.is_file():
        raise ConfigError(
            f"no {what} {name_or_path!r}: it is neither a file nor one of {', '.join(shipped) or '(none shipped)'}."
            + nearest(name_or_path, shipped)
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _parse_assignment(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_]+", part) for part in keys):
        raise ConfigError(f"--set {text!r} is not key=value; write for example --set training.epochs=5")
    try:
        return keys, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()


def _assign(table: dict[str, Any], keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(keys)} cannot be set: {key} is {inner!r}, not a table")
        table = inner
    table[keys[-1]] = value


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    for key in path:
        field = model.model_fields.get(str(key))
        if field is None:
            return None
        found = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        models = [a for a in found if issubclass(a, BaseModel)]
        if not models:
            return None
        model = models[0]
    return model


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    lines = []
    for item in error.errors(include_url=False):
        location = item["loc"]
        path = ".".join(str(part) for part in location) or "(top level)"
        if item["type"] == "extra_forbidden":
            parent = _model_at(model, location[:-1])
            allowed = sorted(parent.model_fields) if parent else []
            hint = nearest(str(location[-1]), allowed)
            lines.append(f"{path} is not a known key.{hint} Allowed: {', '.join(allowed)}")
        elif item["type"] == "missing":
            lines.append(f"{path} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            arrived = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            lines.append(f"{path}: {message}{arrived}")
    return ConfigError(f"{where}: " + "\n  ".join(lines))


M = TypeVar("M", bound=BaseModel)


def _validate(model: type[M], table: Mapping[str, Any], where: str) -> M:
    try:
        text = json.dumps(table, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: holds a value that is no number, text, list or table: {error}") from error
    try:
        # The JSON route of strict mode takes lists for tuples, and nothing else that is not of its type.
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, model, where) from error


def load_study(name_or_path: str, assignments: Iterable[str] = ()) -> StudyConfig:
    """Read a study by name or from a TOML file, with its space resolved.

    Args:
        name_or_path: a shipped study (``quickstart``) or a path to a TOML file.
        assignments: ``key=value`` texts as given to ``--set``, applied in order; values are TOML.

    Raises:
        ConfigError: no such study, or it holds something that is not allowed.
    """
    folder = Path(name_or_path).parent
    return _resolve(_read(name_or_path, "studies"), assignments, f"study {name_or_path}", folder)


def study_from_toml(text: str, assignments: Iterable[str] = ()) -> StudyConfig:
    """Read back what :meth:`StudyConfig.to_toml` wrote.

    Args:
        text: a resolved study.
        assignments: ``key=value`` texts as given to ``--set``, applied in order.

    Raises:
        ConfigError: the text is not such a study, or an assignment is not allowed.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"study.toml is not valid TOML: {error}") from error
    return _resolve(table, assignments, "study.toml", Path())


def _resolve(table: dict[str, Any], assignments: Iterable[str], where: str, folder: Path) -> StudyConfig:
    parsed = [_parse_assignment(text) for text in assignments]
    for keys, value in parsed:
        if keys == ["space"]:
            table["space"] = value
    if isinstance(table.get("space"), str):
        beside = folder / table["space"]
        table["space"] = _read(str(beside) if beside.is_file() else table["space"], "search_spaces")
    for keys, value in parsed:
        if keys != ["space"]:
            _assign(table, keys, value)
    return _validate(StudyConfig, table, where)


def parsed(model: type[M], table: Mapping[str, Any], assignments: Iterable[str], where: str) -> M:
    """A model from a table as TOML gives it, with ``key=value`` texts as given to ``--set`` applied in order.

    Args:
        model: what the table must be.
        table: left as it is.
        assignments: values are TOML; keys are dotted.
        where: begins the message of an error.

    Raises:
        ConfigError: a key that the model does not have, or a value that it does not allow.
    """
    changed = copy.deepcopy(dict(table))
    for keys, value in map(_parse_assignment, assignments):
        _assign(changed, keys, value)
    return _validate(model, changed, where)
