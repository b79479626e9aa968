"""The repeatability benchmark: what its table says of few answers, and on which GPU its children time."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from benchmarks import profiler_repeatability as repeatability
from benchmarks.profiler_repeatability import NETS, OURS, Answer, report
from vnas.profiler import targets

OTHERS = ("VanillaNet", "torch")


def table(repeats: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ours answers 10.0, 10.1, ... ms, the others 10, 12, ... ms; every interval is 1 ms wide."""
    monkeypatch.setattr(repeatability, "machine", lambda device: "a machine")
    answers = [
        Answer(name, net, ms, ms - 0.5, ms + 0.5)
        for number in range(repeats)
        for net in NETS
        for name, ms in [(OURS, 10 + 0.1 * number), *((other, 10.0 + 2 * number) for other in OTHERS)]
    ]
    return report(answers, "cpu", argparse.Namespace(protocols=OTHERS, seconds=1.0), repeats)


@pytest.mark.parametrize("repeats", [1, 2])
def test_too_few_answers_have_neither_spread_nor_factor(monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
    page = table(repeats, monkeypatch)
    assert "inf" not in page
    assert "times ours" not in page
    assert "- Too few answers to compare spreads: of each protocol there must be 3 or more; give more --minutes" in page
    rows = [row for row in page.splitlines() if row.startswith(f"| {NETS[0]} ")]
    assert len(rows) == 3
    assert all(row.count("too few answers") == 2 for row in rows)


def test_three_answers_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    page = table(3, monkeypatch)
    assert "too few" not in page
    # 10.0 to 10.2 against 10 to 14: 2 % and 40 %; all six pairs of ours lie within half a millisecond, none of theirs.
    assert f"| {NETS[0]} | vnas | 10.100 | 2.0% | 9.9% | 6 of 6 |" in page
    assert f"- {NETS[0]}: the smallest spread of the others (VanillaNet) is 20.0 times ours." in page
    assert "vnas 100%, VanillaNet 0%, torch 0%" in page


def test_a_protocol_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        repeatability.main(["--protocols", "triton"])
    assert ended.value.code == 2
    assert "--protocols 'triton'; there are timm, 40 calls, timm, all, VanillaNet, torch" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["timm, 40 calls", "VanillaNet", "torch", "triton"])
def test_a_child_times_on_the_gpu_that_is_measured(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """Others time and wait on the current device, which is the first one unless it is said."""
    now: list[str] = ["cuda:0"]
    seen: list[str] = []

    @contextmanager
    def device(name: str) -> Iterator[None]:
        now.append(name)
        yield
        now.pop()

    class Net:
        def to(self, name: str) -> Net:
            return self

        def __call__(self, images: object) -> None:
            seen.append(now[-1])

    def benched(call: object, *more: object) -> tuple[float, ...]:
        seen.append(now[-1])
        return (1.0, 1.0, 1.0)

    monkeypatch.setattr(targets, "find_target", lambda name, size: SimpleNamespace(build=Net))
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda name: None)
    monkeypatch.setattr(torch, "randn", lambda *shape, device: "images")
    for name in ("do_bench", "blocked_autorange", "mean_of_calls"):
        monkeypatch.setattr(repeatability, name, benched)
    assert repeatability.child(protocol, "net", "cuda:1", 1.0) == (1.0, 1.0, 1.0)
    assert seen == ["cuda:1"]
