"""Lines through counts: latency_ms = intercept + slopes . features, by least squares.

Coefficients travel as JSON, so that a fitted line gives the same answers under any library version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from vnas.errors import UsageError, nearest

Floats = npt.NDArray[np.float64]
SCHEMA = 1


class FittedPredictor(Protocol):
    """What a fit gives: latencies for nets it has not seen."""

    def predict(self, frame: pd.DataFrame) -> Floats:
        """Latency of each row, in ms, (N,)."""
        ...

    def to_json(self) -> str:
        """The fitted coefficients as JSON."""
        ...


class Predictor(Protocol):
    """Anything that learns latency from columns of a frame."""

    @property
    def features(self) -> tuple[str, ...]:
        """The columns it reads."""
        ...

    def fit(self, frame: pd.DataFrame, latency_ms: npt.ArrayLike) -> FittedPredictor:
        """Fit to measured latencies in ms, one a row."""
        ...


def _columns(frame: pd.DataFrame, features: tuple[str, ...]) -> Floats:
    for name in features:
        if name not in frame.columns:
            raise ValueError(
                f"the frame has no column {name!r}; it has {', '.join(map(str, frame.columns))}."
                + nearest(name, map(str, frame.columns))
            )
    values = frame.loc[:, list(features)].to_numpy(dtype=np.float64, na_value=np.nan)  # (N, F)
    if not np.isfinite(values).all():
        raise ValueError(f"a value of {', '.join(features)} is missing or infinite; drop such rows first")
    return values


@dataclass(frozen=True)
class FittedLine:
    """A fitted line.

    Attributes:
        features: the columns it reads.
        intercept_ms: latency where every feature is 0, in ms.
        slopes_ms: ms per unit of each feature.
        n: number of nets it was fitted on.
    """

    features: tuple[str, ...]
    intercept_ms: float
    slopes_ms: tuple[float, ...]
    n: int

    def predict(self, frame: pd.DataFrame) -> Floats:
        """Latency of each row.

        Args:
            frame: one row a net, with the columns of ``features``.

        Returns:
            (N,) latencies in ms. A line has no floor: far from the fitted nets they may be negative.

        Raises:
            ValueError: a column is missing or holds a value that is no number.
        """
        latency_ms: Floats = self.intercept_ms + _columns(frame, self.features) @ np.asarray(self.slopes_ms)
        return latency_ms

    def to_json(self) -> str:
        """The line as JSON that :meth:`from_json` reads back to an equal value."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "kind": "linear",
                "features": list(self.features),
                "intercept_ms": self.intercept_ms,
                "slopes_ms": list(self.slopes_ms),
                "n": self.n,
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> FittedLine:
        """Read what :meth:`to_json` wrote.

        Raises:
            UsageError: the text is not such a line.
        """
        expected = {"schema", "kind", "features", "intercept_ms", "slopes_ms", "n"}
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"this is no JSON, so no fitted line: {error}") from error
        if not isinstance(table, dict) or table.get("schema") != SCHEMA or table.get("kind") != "linear":
            raise UsageError(f'a fitted line says "schema": {SCHEMA} and "kind": "linear"; this does not')
        for key in table.keys() ^ expected:
            what = "is missing" if key in expected else f"is not a known key.{nearest(key, expected)}"
            raise UsageError(f"fitted line: {key} {what}")
        features, slopes = table["features"], table["slopes_ms"]
        numbers: list[Any] = [table["intercept_ms"], *slopes] if isinstance(slopes, list) else [None]
        if (
            not isinstance(features, list)
            or not all(isinstance(name, str) for name in features)
            or not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
            or len(features) != len(numbers) - 1
            or not isinstance(table["n"], int)
        ):
            raise UsageError("fitted line: give a list of names, one finite slope for each, a finite intercept and n")
        return cls(tuple(features), float(numbers[0]), tuple(map(float, slopes)), table["n"])


@dataclass(frozen=True)
class LinearPredictor:
    """A line through one or more counts.

    Attributes:
        features: columns of the frame, each a count of the net.
        label: what to call it in a report; the features joined by " + " without it.
    """

    features: tuple[str, ...] = ("macs",)
    label: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.features, str) or not self.features:
            raise ValueError(f'features = {self.features!r}; give a tuple of column names, for example ("macs",)')
        if not self.label:
            object.__setattr__(self, "label", " + ".join(self.features))

    def fit(self, frame: pd.DataFrame, latency_ms: npt.ArrayLike) -> FittedLine:
        """Least squares of latency on the features.

        A feature that does not vary gets slope 0. Where features are collinear the shortest solution is
        taken, in units of each feature's spread.

        Args:
            frame: one row a net, with the columns of ``features``.
            latency_ms: (N,) measured latencies in ms.

        Raises:
            ValueError: no rows, lengths that differ, a missing column, or a value that is no finite number.
        """
        values = _columns(frame, self.features)  # (N, F)
        target = np.asarray(latency_ms, dtype=np.float64)
        if target.shape != (len(values),) or len(values) == 0:
            raise ValueError(f"{len(values)} nets and latencies of shape {target.shape}; give one latency a net")
        if not np.isfinite(target).all():
            raise ValueError("a latency is missing or infinite; drop such rows first")
        centre, spread = values.mean(axis=0), np.ptp(values, axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        solution = np.linalg.lstsq((values - centre) / scale, target - target.mean(), rcond=None)[0]
        slopes = np.where(spread > 0, solution / scale, 0.0)
        intercept = float(target.mean() - slopes @ centre)
        return FittedLine(self.features, intercept, tuple(map(float, slopes)), len(values))


PREDICTORS: Mapping[str, LinearPredictor] = MappingProxyType(
    {
        "flops": LinearPredictor(("macs",), "FLOPs"),
        "params": LinearPredictor(("params",), "parameters"),
        "depth": LinearPredictor(("depth",), "depth"),
        "kernels": LinearPredictor(("kernels",), "kernel launches"),
        "traffic": LinearPredictor(("macs", "traffic_bytes"), "FLOPs + memory traffic"),
    }
)
