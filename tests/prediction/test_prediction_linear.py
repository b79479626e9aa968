from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from vnas.errors import UsageError
from vnas.prediction import PREDICTORS, FittedLine, LinearPredictor


def nets(n: int = 12, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "macs": random.integers(1_000_000, 5_000_000_000, n),
            "params": random.integers(10_000, 90_000_000, n),
            "depth": random.integers(3, 14, n),
            "kernels": random.integers(6, 40, n),
            "traffic_bytes": random.integers(10_000, 90_000_000, n),
        }
    )


def test_a_line_is_found_exactly() -> None:
    frame = pd.DataFrame({"macs": [1e9, 2e9, 4e9]})
    fitted = LinearPredictor().fit(frame, [1.5, 2.0, 3.0])
    assert fitted.intercept_ms == pytest.approx(1.0)
    assert fitted.slopes_ms == (pytest.approx(5e-10),)
    assert fitted.n == 3
    assert fitted.predict(pd.DataFrame({"macs": [0, 10e9]})) == pytest.approx([1.0, 6.0])


@pytest.mark.parametrize("name", PREDICTORS)
def test_as_an_independent_least_squares(name: str) -> None:
    frame, predictor = nets(), PREDICTORS[name]
    latency = np.random.default_rng(1).uniform(0.5, 9.0, len(frame))
    other = LinearRegression().fit(frame[list(predictor.features)].to_numpy(float), latency)
    fitted = predictor.fit(frame, latency)
    assert fitted.predict(frame) == pytest.approx(other.predict(frame[list(predictor.features)].to_numpy(float)))
    assert fitted.intercept_ms == pytest.approx(other.intercept_)


def test_a_feature_that_does_not_vary_has_no_slope() -> None:
    fitted = LinearPredictor(("depth",)).fit(pd.DataFrame({"depth": [5, 5, 5]}), [1.0, 2.0, 3.0])
    assert fitted.slopes_ms == (0.0,)
    assert fitted.predict(pd.DataFrame({"depth": [5, 9]})) == pytest.approx([2.0, 2.0])


def test_collinear_features_predict_as_one_does() -> None:
    frame = pd.DataFrame({"macs": [1.0, 2.0, 3.0, 5.0]})
    frame["twice"] = 2 * frame["macs"]
    both = LinearPredictor(("macs", "twice")).fit(frame, [1.0, 2.5, 2.0, 4.0])
    one = LinearPredictor(("macs",)).fit(frame, [1.0, 2.5, 2.0, 4.0])
    assert both.predict(frame) == pytest.approx(one.predict(frame))


@settings(deadline=None, max_examples=50)
@given(st.floats(-5, 5), st.floats(-1e-6, 1e-6), st.floats(-1e-3, 1e-3), st.integers(1, 1000))
def test_json_reads_back_to_an_equal_line(intercept: float, first: float, second: float, n: int) -> None:
    line = FittedLine(("macs", "traffic_bytes"), intercept, (first, second), n)
    assert FittedLine.from_json(line.to_json()) == line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, '"schema": 1'),
        ({"kind": "tree"}, '"kind": "linear"'),
        ({"slope_ms": [1.0]}, "slope_ms is not a known key. Did you mean 'slopes_ms'"),
        ({"slopes_ms": [1.0, 2.0]}, "one finite slope for each"),
        ({"slopes_ms": [float("nan")]}, "one finite slope for each"),
        ({"slopes_ms": 3.0}, "one finite slope for each"),
        ({"intercept_ms": "1"}, "one finite slope for each"),
    ],
)
def test_json_that_is_no_line(change: dict[str, object], said: str) -> None:
    table = json.loads(FittedLine(("macs",), 1.0, (2.0,), 3).to_json()) | change
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        FittedLine.from_json(json.dumps(table))


def test_json_that_lacks_a_key_or_is_none() -> None:
    table = json.loads(FittedLine(("macs",), 1.0, (2.0,), 3).to_json())
    del table["n"]
    with pytest.raises(UsageError, match="n is missing"):
        FittedLine.from_json(json.dumps(table))
    with pytest.raises(UsageError, match="no JSON"):
        FittedLine.from_json("{")
    with pytest.raises(UsageError, match="this does not"):
        FittedLine.from_json("[]")


def test_errors_name_what_arrived() -> None:
    frame = nets(4)
    with pytest.raises(ValueError, match=r"no column 'mac'.*Did you mean 'macs'"):
        LinearPredictor(("mac",)).fit(frame, np.ones(4))
    with pytest.raises(ValueError, match="give one latency a net"):
        LinearPredictor().fit(frame, np.ones(3))
    with pytest.raises(ValueError, match="give one latency a net"):
        LinearPredictor().fit(frame[:0], [])
    with pytest.raises(ValueError, match="latency is missing or infinite"):
        LinearPredictor().fit(frame, [1.0, np.nan, 1.0, 1.0])
    with pytest.raises(ValueError, match="missing or infinite"):
        LinearPredictor().fit(frame.assign(macs=[1.0, np.nan, 2.0, 3.0]), np.ones(4))
    with pytest.raises(ValueError, match="tuple of column names"):
        LinearPredictor("macs")  # type: ignore[arg-type]


def test_labels() -> None:
    assert LinearPredictor(("macs", "depth")).label == "macs + depth"
    assert PREDICTORS["flops"].label == "FLOPs"
