"""What every table of a study is made of: strict fields, choices, bounds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Residual = Literal["none", "before_activation", "after_activation"]
Shape = Literal["linear", "cosine", "step"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]

T = TypeVar("T")


def _as_choices(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Choices = Annotated[tuple[T, ...], BeforeValidator(_as_choices), Field(min_length=1)]


class Strict(BaseModel):
    """Frozen; an unknown key or a value of another type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Options(Strict):
    """A table in which every tuple field is a set of choices."""

    @model_validator(mode="after")
    def _no_choice_twice(self) -> Options:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(set(value)) < len(value):
                raise ValueError(f"{name} = {list(value)} lists a choice twice")
        return self
