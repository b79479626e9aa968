from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import UsageError
from vnas.profiler.energy import Energy
from vnas.profiler.environment import Environment
from vnas.profiler.measurement import Measurement
from vnas.profiler.records import from_plain
from vnas.profiler.telemetry import Snapshot

# from_type fills every field of the annotated kind, so a field that the JSON cannot carry is found here.
finite = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, finite)
environments = st.builds(Environment, packages=st.dictionaries(st.text(), st.text(), max_size=2))
snapshots = st.builds(Snapshot)
measurements = st.builds(Measurement, telemetry=st.lists(snapshots, max_size=2).map(tuple), environment=environments)


@given(measurements)
@settings(deadline=None, max_examples=60)
def test_json_both_ways(result: Measurement) -> None:
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Measurement.from_dict(json.loads(text)) == result


@given(environments)
@settings(deadline=None, max_examples=20)
def test_environment_both_ways(environment: Environment) -> None:
    assert from_plain(Environment, json.loads(json.dumps(environment.to_dict())), "environment") == environment


ENVIRONMENT = Environment(
    device_kind="A CPU, 2 CPUs",
    device_type="cpu",
    device_id=None,
    driver=None,
    cuda=None,
    cudnn=None,
    torch="2.9.0",
    python="3.11.7",
    cpu_model="A CPU",
    cpu_cores=2,
    cpu_threads=2,
    cpu_governor=None,
    threads=1,
    matmul_precision="highest",
    matmul_tf32=False,
    cudnn_tf32=True,
    cudnn_benchmark=False,
    deterministic=False,
    os="Linux",
    date_utc="2025-01-01T00:00:00+00:00",
)
RESULT = Measurement(
    median_ms=2.0,
    interval_ms=(1.9, 2.1),
    interval_level=0.95,
    interval_method="one process",
    samples_ms=(1.9, 2.0, 2.1),
    stop_reason="time limit",
    noise_ok=False,
    target_relative=0.01,
    warmup_iterations=5,
    warmup_seconds=0.1,
    device="cpu",
    runtime="eager",
    timer="replay",
    precision="fp32",
    layout="contiguous",
    input_shapes=((4, 3, 8, 8),),
    input_dtypes=("float32",),
    environment=ENVIRONMENT,
)


def test_derived_values() -> None:
    assert RESULT.n == 3
    assert RESULT.batch == 4
    assert RESULT.relative_width == pytest.approx(0.1)


def test_absence_is_none() -> None:
    plain = RESULT.to_dict()
    for name in (
        "energy",
        "error",
        "page_faults",
        "quiet_us",
        "host_ms",
        "enqueue_ms",
        "graph_ms",
        "launch_bound",
        "throttled",
        "other_cpus",
    ):
        assert plain[name] is None
    assert RESULT.energy_mj is None


def test_energy_is_the_gross_one() -> None:
    energy = Energy("nvml", 12.0, (11.0, 13.0), 10.0, (8.0, 12.0), 60.0, 5.0, 100, 100.0)
    measured = dataclasses.replace(RESULT, energy=energy)
    assert measured.energy_mj == 12.0
    assert Measurement.from_dict(measured.to_dict()) == measured


def changed(**changes: Any) -> dict[str, Any]:
    return {**RESULT.to_dict(), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(schema=3), "schema 3; this version reads schemas 1 and 2"),
        ({}, "schema None"),
        (changed(mediam_ms=1.0), r"unknown key 'mediam_ms'\. Did you mean 'median_ms'\?"),
        ({k: v for k, v in RESULT.to_dict().items() if k != "noise_ok"}, "measurement lacks noise_ok"),
        (changed(median_ms="2"), "measurement.median_ms is '2'; it must be of type float"),
        (changed(median_ms=float("nan")), "measurement.median_ms is nan"),
        (changed(median_ms=True), "measurement.median_ms is True; it must be of type float"),
        (changed(noise_ok=1), "measurement.noise_ok is 1; it must be of type bool"),
        (changed(warmup_iterations=True), "warmup_iterations is True; it must be of type int"),
        (changed(interval_ms=[1.0]), "interval_ms has 1 items; it must have 2"),
        (changed(samples_ms=3.0), "samples_ms is 3.0; it must be a list"),
        (changed(samples_ms=[1.0, None]), r"samples_ms\[1\] is None"),
        (changed(stop_reason="bored"), "stop_reason is 'bored'; allowed are 'target met', 'time limit'"),
        (changed(environment=[]), r"measurement.environment is \[\]; it must be an object"),
        (changed(environment={**ENVIRONMENT.to_dict(), "threads": None}), "measurement.environment.threads is None"),
        (
            changed(environment={**ENVIRONMENT.to_dict(), "packages": ["timm"]}),
            "packages is .*; it must be an object",
        ),
        (changed(environment={**ENVIRONMENT.to_dict(), "packages": {"timm": 1}}), r"environment.packages.timm is 1"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_where(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Measurement.from_dict(data)


def test_results_from_before_packages_were_recorded_can_be_read() -> None:
    environment = {name: value for name, value in ENVIRONMENT.to_dict().items() if name != "packages"}
    read = Measurement.from_dict(changed(environment=environment))
    assert read == RESULT
    assert read.environment.packages == {}


def test_results_of_version_0_1_can_still_be_read() -> None:
    new = {"interval_method", "blocks", "discarded_ms", "quiet_us", "page_faults", "energy", "error", "valid"}
    old = {name: value for name, value in RESULT.to_dict().items() if name not in new}
    environment = {
        k: v for k, v in ENVIRONMENT.to_dict().items() if k not in ("vnas", "revision", "malloc", "interop_threads")
    }
    read = Measurement.from_dict(
        {**old, "schema": 1, "energy_mj": None, "precision": "float32", "environment": environment}
    )
    assert read == RESULT
    look = {name: value for name, value in dataclasses.asdict(Snapshot(power_w=99.5)).items() if name != "throttled_ns"}
    on_gpu = Measurement.from_dict(
        {**old, "schema": 1, "environment": environment, "telemetry": [{**look, "notes": []}]}
    )
    assert on_gpu.telemetry == (Snapshot(power_w=99.5),)
    with pytest.raises(UsageError, match="measurement lacks median_ms"):
        Measurement.from_dict({"schema": 1})
