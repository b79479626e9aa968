from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import UsageError
from vnas.profiler.plan import Cell, Plan, Rules, groups, per_process
from vnas.profiler.records import from_plain, to_plain

cells = st.builds(Cell)


@given(st.builds(Plan, cells=st.lists(cells, max_size=3).map(tuple), rules=st.just(Rules(threads=2))))
@settings(deadline=None, max_examples=40)
def test_a_plan_survives_json(plan: Plan) -> None:
    if plan.quiet_us is not None and not math.isfinite(plan.quiet_us):
        return
    assert from_plain(Plan, json.loads(json.dumps(to_plain(plan))), "plan") == plan


def test_a_process_has_its_share() -> None:
    share = per_process(Rules(0.01, 50, 0.6, 15.0, 3.0, 5.0, threads=2), 4)
    assert share == Rules(0.02, 13, 0.15, 3.75, 3.0, 5.0, threads=2)  # 50 / 4 = 12.5, the root of 4 is 2
    assert per_process(share, 1) == share
    with pytest.raises(UsageError, match="processes = 0; it must be at least 1"):
        per_process(Rules(), 0)


def test_one_runtime_a_process() -> None:
    runtimes = ["eager", "onnxruntime", "eager", "openvino", "onnxruntime"]
    assert groups([Cell("n", runtime=runtime) for runtime in runtimes]) == [(0, 2), (1, 4), (3,)]
    assert groups([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_relative": 0.0}, "target_relative = 0.0; it must be more than 0"),
        ({"target_relative": math.nan}, "target_relative = nan"),
        ({"min_samples": 0}, "min_samples = 0; it must be at least 1"),
        ({"max_seconds": 0.0, "min_seconds": 0.0}, "max_seconds = 0.0; it must be more than 0"),
        ({"max_seconds": math.inf}, "max_seconds = inf"),
        ({"min_seconds": -0.1}, "min_seconds = -0.1; it must be from 0 to max_seconds = 15"),
        ({"min_seconds": 16.0}, "min_seconds = 16.0; it must be from 0 to max_seconds = 15"),
        ({"max_warmup_seconds": -1.0}, "max_warmup_seconds = -1.0"),
        ({"energy_seconds": 0.5}, "energy_seconds = 0.5; it must be at least 1, or 0 to leave energy out"),
        ({"energy_seconds": math.nan}, "energy_seconds = nan"),
        ({"threads": 0}, "threads = 0; it must be at least 1"),
    ],
)
def test_rules_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Rules(**wrong)


def test_a_second_is_the_shortest_energy_window() -> None:
    assert Rules(energy_seconds=1.0).energy_seconds == 1.0
