"""What the terminal prints: honest digits, readable times, nothing interpreted as markup."""

import io

from rich.console import Console

from vnas.search.engine.reporting import TrialLine
from vnas.search.terminal import Terminal


def line(**changes: object) -> TrialLine:
    values: dict[str, object] = {
        "number": 3,
        "state": "complete",
        "description": "3x3/2-8 · 16",
        "depth": 3,
        "latency_ms": (1.0, 0.99, 1.01),
        "val_top1": 91.25,
        "seconds": 2.0,
        "note": "",
    }
    return TrialLine(**(values | changes))  # type: ignore[arg-type]


def test_a_line_a_trial_with_the_time_left() -> None:
    out = io.StringIO()
    now = iter([0.0, 10.0, *[12.0] * 9])
    terminal = Terminal(Console(file=out, width=60), clock=lambda: next(now))
    terminal.search_started(0, 3)
    terminal.trial_finished(line(), 1, 3)
    terminal.trial_finished(line(number=4, state="failed", note="[red]boom[/red]", val_top1=None), 2, 3)
    terminal.trial_finished(line(number=5, state="duplicate", note="of trial 3", seconds=0.0), 2, 3)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("trial   3     91.2 % val   1.000 [0.990, 1.010] ms")
    assert lines[0].endswith("(1/3, about 4 s left of the search)")  # 2 s for the first, whatever it was spent on
    assert "failed: [red]boom[/red]" in lines[1]
    assert "duplicate: of trial 3" in lines[2]
