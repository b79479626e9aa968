from __future__ import annotations

import dataclasses

import pytest
from test_profiler_measurement import ENVIRONMENT, RESULT

from vnas.profiler.lines import COLUMNS, GPU_COLUMNS, decimals, measurement_line, measurement_row, milliseconds
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


def test_a_line_on_the_cpu() -> None:
    assert measurement_line("vanillanet_5", "fused", RESULT) == (
        "vanillanet_5 fused  float32 contiguous  batch 4  2.00 ms [1.90 - 2.10]  n=3  A CPU, 2 CPUs, 1 thread  "
        "clock unread  temperature unread  noise target missed"
    )


def test_a_line_on_a_gpu() -> None:
    assert measurement_line("timm:resnet50", "eval", ON_GPU) == (
        "timm:resnet50 eval  float32 contiguous  batch 4  0.8123 ms [0.8119 - 0.8128]  n=3  A Card  "
        "1980 MHz  45 C  noise target met"
    )


def test_a_line_warns() -> None:
    warned = dataclasses.replace(ON_GPU, throttled=True, contention="yes", precision=None, layout=None, input_shapes=())
    line = measurement_line("f", "callable", warned)
    assert line.endswith("noise target met  THROTTLED  CONTENTION")
    assert "precision unknown  batch unknown" in line


def test_rows_have_the_columns_of_their_device() -> None:
    row = measurement_row("a", "fused", RESULT)
    assert dict(zip(COLUMNS, row, strict=True))["noise"] == "missed"
    row = measurement_row("a", "fused", ON_GPU)
    named = dict(zip(GPU_COLUMNS, row, strict=True))
    assert (named["host ms"], named["graph ms"], named["launch-bound"]) == ("0.8300", "0.4120", "yes")
    unknown = dataclasses.replace(ON_GPU, graph_ms=None, launch_bound=None)
    assert measurement_row("a", "fused", unknown)[-2:] == ("-", "-")
