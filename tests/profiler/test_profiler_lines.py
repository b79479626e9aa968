from __future__ import annotations

import dataclasses

import pytest
from test_profiler_measurement import ENVIRONMENT, RESULT

from vnas.profiler.energy import Energy
from vnas.profiler.lines import (
    aligned,
    columns,
    decimals,
    invalid_reason,
    measurement_line,
    measurement_row,
    milliseconds,
)
from vnas.profiler.measurement import Measurement
from vnas.profiler.numerics import NumericalError
from vnas.profiler.telemetry import Snapshot

ON_GPU = dataclasses.replace(
    RESULT,
    environment=dataclasses.replace(ENVIRONMENT, device_kind="A Card", device_type="cuda"),
    device="cuda:0",
    median_ms=0.81234,
    interval_ms=(0.8119, 0.8128),
    noise_ok=True,
    host_ms=0.83,
    graph_ms=0.412,
    launch_bound=True,
    processes=3,
    telemetry=(Snapshot(), Snapshot(sm_clock_mhz=1980, temperature_c=45)),
)


@pytest.mark.parametrize(
    ("width", "digits"), [(250.0, 0), (25.0, 0), (2.5, 1), (0.25, 2), (0.04, 3), (1e-7, 4), (0.0, 4)]
)
def test_two_digits_of_the_interval_are_shown(width: float, digits: int) -> None:
    assert decimals(width) == digits


def test_only_significant_digits_are_printed() -> None:
    result = dataclasses.replace(RESULT, median_ms=12.3141, interval_ms=(12.2849, 12.3561))
    assert milliseconds(result) == ("12.314", "12.285 - 12.356")


ENERGY = Energy("nvml", 45.123, (44.9, 45.3), 30.06, (29.0, 31.0), 60.0, 5.0, 100, 100.0)


def test_a_wide_interval_leaves_something_of_the_median() -> None:
    assert milliseconds(dataclasses.replace(RESULT, median_ms=0.2434, interval_ms=(0.01, 1086.0)))[0] == "0.24"


def test_an_interval_that_says_nothing_stays_short() -> None:
    assert milliseconds(dataclasses.replace(RESULT, interval_ms=(0.01, 4.1e27)))[1] == "0.0 - 4.1e+27"


def test_a_line_on_the_cpu() -> None:
    assert measurement_line("vanillanet_5", "fused", RESULT) == (
        f"vanillanet_5 fused  eager {RESULT.precision} contiguous  batch 4  2.00 ms [1.90 - 2.10]  n=3 in 1 process  "
        "A CPU, 2 CPUs, 1 thread  clock unread  temperature unread  noise target missed"
    )


def test_a_line_on_a_gpu() -> None:
    assert measurement_line("timm:resnet50", "eval", ON_GPU) == (
        f"timm:resnet50 eval  eager {RESULT.precision} contiguous  batch 4  0.8123 ms [0.8119 - 0.8128]  "
        "n=3 in 3 processes  A Card  1980 MHz  45 C  noise target met  launch-bound"
    )


def test_a_line_has_the_error_and_the_energy_where_there_are_any() -> None:
    measured = dataclasses.replace(ON_GPU, error=NumericalError(0.0012, 0.0003), energy=ENERGY)
    assert measurement_line("f", "eval", measured).endswith(
        "noise target met  error 1.2e-03  energy 45.12 / 30.06 mJ (gross / net)  launch-bound"
    )


def test_a_line_warns() -> None:
    warned = dataclasses.replace(ON_GPU, throttled=True, contention="yes", precision=None, layout=None, input_shapes=())
    line = measurement_line("f", "callable", warned)
    assert line.endswith("noise target met  THROTTLED  CONTENTION  launch-bound")
    assert "  eager precision unknown  batch unknown" in line


def test_a_result_that_is_not_valid_says_so_and_why() -> None:
    invalid = dataclasses.replace(RESULT, valid=False, notes=("a note", "INVALID: too hot; cool it"))
    assert measurement_line("f", "eval", invalid).endswith("noise target missed  INVALID: too hot; cool it")
    assert row_of(invalid)["noise"] == "INVALID"
    assert invalid_reason(dataclasses.replace(invalid, notes=())) == "too many samples were put aside"


def row_of(result: Measurement, *others: Measurement) -> dict[str, str]:
    names = columns([result, *others])
    return dict(zip(names, measurement_row("a", "fused", result, names), strict=True))


def test_a_table_on_the_cpu_has_what_there_is() -> None:
    assert row_of(RESULT) == {
        "net": "a",
        "form": "fused",
        "precision": str(RESULT.precision),
        "batch": "4",
        "median ms": "2.00",
        "95 % interval": "1.90 - 2.10",
        "n": "3",
        "processes": "1",
        "noise": "missed",
    }


def test_an_interval_of_less_than_95_percent_says_so() -> None:
    few = dataclasses.replace(RESULT, interval_level=0.87654)
    assert "  2.00 ms [1.90 - 2.10, 87 %]  " in measurement_line("f", "eval", few)
    named = row_of(few, RESULT)  # the heading holds for both
    assert named["interval, 87 % or more"] == "1.90 - 2.10"
    assert "95 % interval" not in named
    assert "95 % interval" in row_of(dataclasses.replace(RESULT, interval_level=0.9672))


def test_a_table_on_a_gpu_has_the_host_and_the_graph() -> None:
    named = row_of(ON_GPU)
    assert (named["host ms"], named["graph ms"], named["launch-bound"]) == ("0.8300", "0.4120", "yes")
    named = row_of(dataclasses.replace(ON_GPU, graph_ms=None, launch_bound=None))
    assert (named["graph ms"], named["launch-bound"]) == ("-", "-")


def test_a_column_is_there_as_soon_as_one_row_has_something_to_say() -> None:
    full = dataclasses.replace(
        RESULT, runtime="onnxruntime", error=NumericalError(0.5, 0.1), energy=ENERGY, discarded_ms=(9.0,)
    )
    said = row_of(full, RESULT)
    assert [said[name] for name in ("runtime", "error", "energy mJ gross / net", "put aside")] == [
        "onnxruntime", "5.0e-01", "45.12 / 30.06", "25%"
    ]  # fmt: skip
    empty = row_of(RESULT, full)
    assert [empty[name] for name in ("runtime", "error", "energy mJ gross / net", "put aside")] == [
        "eager", "-", "-", "-"
    ]  # fmt: skip
    assert list(said) == list(empty)


def test_energy_without_an_idle_power_has_no_net() -> None:
    gross_only = dataclasses.replace(ENERGY, net_mj=None, net_interval_mj=None)
    assert row_of(dataclasses.replace(RESULT, energy=gross_only))["energy mJ gross / net"] == "45.12 / -"


def test_a_table_is_as_wide_as_it_must_be() -> None:
    assert aligned(("net", "ms"), [("a" * 5, "1.0"), ("b", "10.25")]) == [
        "net       ms",
        "------------",
        "aaaaa    1.0",
        "b      10.25",
    ]
