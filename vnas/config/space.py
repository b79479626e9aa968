"""What may vary in a candidate. Lists are choices, a single value is a fixed one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vnas.config.options import Choices, NonNegative, Options, Positive, Residual, Shape, Share


class StemSpace(Options):
    """Choices for the first convolution; its padding follows from kernel and stride."""

    kernel: Choices[Positive] = (4,)
    stride: Choices[Positive] = (4,)
    width: Choices[Positive]
    series: Choices[NonNegative] = (3,)


class StageSpace(Options):
    """Choices for each stage; ``count`` lists the numbers of stages a net may have."""

    count: Choices[Positive]
    width: Choices[Positive]
    stride: Choices[Literal[1, 2]] = (1, 2)
    series: Choices[NonNegative] = (3,)
    residual: Choices[Residual] = ("none",)


class AnnealSpace(Options):
    """Choices for the lambda schedule; what is left out comes from ``training.anneal``."""

    shape: Choices[Shape] | None = None
    start: Choices[Share] | None = None
    end: Choices[Annotated[float, Field(gt=0, le=1)]] | None = None
    steps: Choices[Positive] | None = None
    stagger: Choices[Share] | None = None


class SpaceConfig(Options):
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
