"""What a net is, as a value: frozen, hashable, checked, and with one canonical form.

This module imports no torch: a search can draw, compare and store architectures without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vnas.errors import ArchitectureError, nearest
from vnas.nets.checks import check_int, check_keys, check_mapping, check_word
from vnas.nets.presets import PRESETS

SCHEMA = 1

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "hardswish", "elu", "tanh", "identity")
"""Base activations A, each with PyTorch's default constants; "identity" makes the net linear but for its pools."""

RESIDUALS = ("none", "before_activation", "after_activation")
PROJECTIONS = ("none", "pad", "conv")


@dataclass(frozen=True, slots=True)
class Stem:
    """The first layer: one strided convolution and a series activation.

    Attributes:
        width: Output channels.
        kernel: Side of the convolution's kernel in pixels.
        stride: Its stride.
        padding: Its padding, below the kernel.
        series: Order n of the series activation; its depthwise kernel is 2n + 1 wide.
    """

    width: int
    kernel: int = 4
    stride: int = 4
    padding: int = 0
    series: int = 3

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("kernel", 1), ("stride", 1), ("padding", 0), ("series", 0)):
            check_int(f"stem.{name}", getattr(self, name), least)
        if self.padding >= self.kernel:
            raise ArchitectureError(
                f"stem.padding is {self.padding} with a kernel of {self.kernel}: "
                f"some outputs would see only padding; it must be below {self.kernel}"
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a 1x1 convolution, a max pool where it downsamples, a series activation.

    Attributes:
        width: Output channels.
        stride: Side and stride of the max pool; 1 means no pool.
        series: Order n of the series activation.
        residual: "none", "before_activation" (the shortcut joins the convolution's output before the pool)
            or "after_activation" (the pooled input joins the stage's output).
        pool_to: Side of the output in pixels, by an adaptive max pool instead of a strided one. As in the
            official code it acts only where ``stride`` is above 1.
    """

    width: int
    stride: int = 2
    series: int = 3
    residual: str = "none"
    pool_to: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("stride", 1), ("series", 0)):
            check_int(f"stage.{name}", getattr(self, name), least)
        check_word("stage.residual", self.residual, RESIDUALS)
        if self.pool_to is not None:
            check_int("stage.pool_to", self.pool_to, 1)

    @property
    def pools(self) -> bool:
        """Whether the stage has a max pool at all."""
        return self.stride > 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """A plain convolutional net: stem, stages, head.

    Attributes:
        stem: The stem.
        stages: The stages, at least one; a list is taken as a tuple.
        activation: Base activation A, one of ``ACTIVATIONS``.
        series_shift: Whether the series activation has the paper's shift b inside A (the official code has none).
        projection: What a shortcut does where its shapes differ: "none" (then that is an error), "pad"
            (channels padded with zeros or cut; no parameters) or "conv" (1x1 convolution and batch norm).
        in_chans: Input channels.
        image_size: Side of the square input in pixels.
        num_classes: Classes; 0 makes a net without a classifier, whose output is the pooled features.
        dropout: Dropout rate before the classifier, in [0, 1).

    Raises:
        ArchitectureError: The net cannot exist; the message says what arrived and what is allowed.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    activation: str = "relu"
    series_shift: bool = False
    projection: str = "none"
    in_chans: int = 3
    image_size: int = 224
    num_classes: int = 1000
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.stem, Stem):
            raise ArchitectureError(f"stem is {self.stem!r}; it must be a Stem")
        if not isinstance(self.stages, tuple | list) or not all(isinstance(s, Stage) for s in self.stages):
            raise ArchitectureError(f"stages is {self.stages!r}; it must be a tuple of Stage")
        if not self.stages:
            raise ArchitectureError("stages is empty; a net needs at least one Stage")
        object.__setattr__(self, "stages", tuple(self.stages))
        check_word("activation", self.activation, ACTIVATIONS)
        check_word("projection", self.projection, PROJECTIONS)
        if not isinstance(self.series_shift, bool):
            raise ArchitectureError(f"series_shift is {self.series_shift!r}; it must be true or false")
        for name, least in (("in_chans", 1), ("image_size", 1), ("num_classes", 0)):
            check_int(name, getattr(self, name), least)
        self._check_dropout()
        self._check_sizes()
        self._check_shortcuts()

    def _check_dropout(self) -> None:
        rate: object = self.dropout
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ArchitectureError(f"dropout is {rate!r}; it must be a number from 0 up to, not including, 1")
        # 0, 0.0 and -0.0 are one net, so they must be one JSON text.
        object.__setattr__(self, "dropout", float(rate) + 0.0)

    def _check_sizes(self) -> None:
        sizes = [self.image_size]
        for where, size in zip(self._layer_names(), self._sizes(), strict=False):
            sizes.append(size)
            trail = " -> ".join(str(s) for s in sizes)
            if size < 1:
                raise ArchitectureError(
                    f"the feature map vanishes at {where} (side in pixels: {trail}); use a larger image_size, "
                    "a smaller stem stride or fewer stages of stride 2"
                )
            if size > sizes[-2] and where != "the stem":
                raise ArchitectureError(
                    f"pool_to enlarges the feature map at {where} (side in pixels: {trail}); "
                    f"it must be at most {sizes[-2]} there"
                )

    def _check_shortcuts(self) -> None:
        if self.projection != "none":
            return
        for index in range(len(self.stages)):
            if self.shortcut(index) == "none":
                width_in, stage = self.widths[index], self.stages[index]
                shapes = f"{width_in} to {stage.width} channels" + (", pooled" if stage.pools else "")
                raise ArchitectureError(
                    f"stage {index + 1} of {len(self.stages)} has residual={stage.residual!r} but its shapes differ "
                    f'({shapes}); set projection="pad" or projection="conv", or its residual to "none"'
                )

    def _layer_names(self) -> Iterator[str]:
        yield "the stem"
        for index in range(len(self.stages)):
            yield f"stage {index + 1} of {len(self.stages)}"

    def _sizes(self) -> Iterator[int]:
        """Side of the output of the stem and each stage, up to and including the first below 1."""
        size = (self.image_size + 2 * self.stem.padding - self.stem.kernel) // self.stem.stride + 1
        yield size
        for stage in self.stages:
            if size < 1:
                return
            if stage.pools:
                size = size // stage.stride if stage.pool_to is None else stage.pool_to
            yield size

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels, stem first."""
        return (self.stem.width, *(stage.width for stage in self.stages))

    @property
    def depth(self) -> int:
        """Layers as the paper counts them: stem, stages and, if there is one, the head."""
        return 1 + len(self.stages) + (self.num_classes > 0)

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Side of each feature map in pixels, stem first."""
        return tuple(self._sizes())

    @property
    def reductions(self) -> tuple[int, ...]:
        """How many input pixels one pixel of each feature map stands for, stem first.

        The product of the strides; after an adaptive pool the rounded ratio of the sides.
        """
        reduction = self.stem.stride
        found = [reduction]
        for stage, size in zip(self.stages, self.feature_sizes[1:], strict=True):
            if stage.pools and stage.pool_to is None:
                reduction *= stage.stride
            elif stage.pools:
                reduction = max(reduction, round(self.image_size / size))
            found.append(reduction)
        return tuple(found)

    def shortcut(self, index: int) -> str | None:
        """How stage ``index`` carries its input past the convolution.

        Returns:
            None (no residual), "identity", "pad", "conv", or "none" where the shapes differ and no rule is set,
            which construction refuses.
        """
        stage = self.stages[index]
        if stage.residual == "none":
            return None
        # Before the activation the shortcut joins ahead of the pool, so only the width can differ there.
        pooled = stage.residual == "after_activation" and stage.pools
        same = self.widths[index] == stage.width and not pooled
        return "identity" if same else self.projection

    def canonical(self) -> Architecture:
        """The one description that every description of the same training net maps to.

        The projection rule goes where no shortcut needs it; ``pool_to`` goes where the stage does not pool; the
        stride, which an adaptive pool ignores, becomes 2 there. A residual before the activation stays, though the
        fused form does without it: it trains as another net.
        """
        stages = tuple(
            replace(s, pool_to=None) if not s.pools else s if s.pool_to is None else replace(s, stride=2)
            for s in self.stages
        )
        needed = any(self.shortcut(i) in ("pad", "conv") for i in range(len(stages)))
        return replace(self, stages=stages, projection=self.projection if needed else "none")

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON (sorted keys, no spaces)."""
        text = json.dumps(self.canonical().to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def describe(self) -> str:
        """One short line for tables, such as ``4x4/4-512 · 1024↓2 · 2048↓2 · 4096↓2  n=3``.

        ``p`` is the stem's padding, ``↓`` a pool's stride, ``→`` an adaptive pool's side, ``+pre`` and ``+post`` a
        residual before and after the activation.
        """
        stem = f"{self.stem.kernel}x{self.stem.kernel}/{self.stem.stride}"
        stem += f"p{self.stem.padding}" if self.stem.padding else ""
        layers = [f"{stem}-{self.stem.width}"]
        for stage in self.stages:
            pool = "" if not stage.pools else f"↓{stage.stride}" if stage.pool_to is None else f"→{stage.pool_to}"
            residual = {"none": "", "before_activation": "+pre", "after_activation": "+post"}[stage.residual]
            layers.append(f"{stage.width}{pool}{residual}")
        orders = [self.stem.series, *(stage.series for stage in self.stages)]
        order = str(orders[0]) if len(set(orders)) == 1 else ",".join(str(n) for n in orders)
        notes = [f"n={order}"]
        notes += [self.activation] if self.activation != "relu" else []
        notes += ["shift"] if self.series_shift else []
        return " · ".join(layers) + "  " + " ".join(notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the schema number; ``from_dict`` reads it back."""
        plain = asdict(self)
        plain["stages"] = list(plain["stages"])
        return {"schema": SCHEMA, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what ``to_dict`` wrote; fields that have a default may be left out.

        Raises:
            ArchitectureError: An unknown or missing key, or a value that is not allowed.
        """
        plain = dict(check_mapping("the architecture", data))
        schema = plain.pop("schema", SCHEMA)
        if schema != SCHEMA or isinstance(schema, bool):
            raise ArchitectureError(f"the architecture has schema {schema!r}; this version reads schema {SCHEMA}")
        check_keys("the architecture", plain, cls)
        stages = plain["stages"]
        if not isinstance(stages, list | tuple):
            raise ArchitectureError(f"stages is {stages!r}; it must be a list")
        plain["stem"] = Stem(**check_keys("stem", plain["stem"], Stem))
        plain["stages"] = tuple(
            Stage(**check_keys(f"stage {i} of {len(stages)}", s, Stage)) for i, s in enumerate(stages, start=1)
        )
        return cls(**plain)

    def to_json(self) -> str:
        """JSON text, indented, keys in the order of the fields."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what ``to_json`` wrote.

        Raises:
            ArchitectureError: Not JSON, an unknown or missing key, or a value that is not allowed.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArchitectureError(f"the architecture is not JSON: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def named(
        cls,
        name: str,
        *,
        num_classes: int = 1000,
        image_size: int | None = None,
        in_chans: int = 3,
        dropout: float = 0.0,
    ) -> Architecture:
        """A published net.

        Args:
            name: "vanillanet_5" to "vanillanet_13", "vanillanet_13_x1_5" or "vanillanet_13_x1_5_ada_pool".
            num_classes: Classes; 0 for none.
            image_size: Side of the input in pixels; None for the published one (224, with adaptive pools 384).
            in_chans: Input channels.
            dropout: Dropout rate before the classifier.

        Raises:
            ArchitectureError: No net of this name, or it cannot exist at this image size.
        """
        if name not in PRESETS:
            raise ArchitectureError(f"no net named {name!r}; there are {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
        preset = PRESETS[name]
        return cls(
            stem=Stem(preset.widths[0], stride=preset.stem_stride, padding=preset.stem_padding),
            stages=tuple(
                Stage(width, stride=stride, pool_to=pool)
                for width, stride, pool in zip(preset.widths[1:], preset.strides, preset.pools, strict=True)
            ),
            num_classes=num_classes,
            image_size=preset.image_size if image_size is None else image_size,
            in_chans=in_chans,
            dropout=dropout,
        )
