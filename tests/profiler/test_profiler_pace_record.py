from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.profiler import measure, pace_record
from vnas.profiler.pace import HandoffPace
from vnas.profiler.pace_record import PROCESSES, known_quiet_us, record_path, remember


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "pace.json"


def test_nothing_is_known_before_two_processes_have_said_something(record: Path) -> None:
    assert known_quiet_us(record) is None
    remember(record, 4.5)
    assert known_quiet_us(record) is None
    remember(record, 4.8)
    assert known_quiet_us(record) == 4.8


def test_one_reading_that_is_too_good_decides_nothing(record: Path) -> None:
    for seen in (4.8, 0.1, 4.7, 7.6):
        remember(record, seen)
    assert known_quiet_us(record) == 4.7


def test_a_machine_that_has_become_slower_is_believed_after_a_while(record: Path) -> None:
    for seen in [4.5] * PROCESSES:
        remember(record, seen)
    for _ in range(PROCESSES - 2):
        remember(record, 7.0)
        assert known_quiet_us(record) == 4.5
    remember(record, 7.0)
    assert known_quiet_us(record) == 7.0


@pytest.mark.parametrize("text", ["", "{", "{}", '["4.5", null]', "[-1.0, 0.0]", "[NaN, Infinity]", "\xff"])
def test_a_record_that_is_none_is_begun_anew(record: Path, text: str) -> None:
    record.write_text(text, encoding="latin-1")
    assert known_quiet_us(record) is None
    remember(record, 5.0)
    remember(record, 5.0)
    assert known_quiet_us(record) == 5.0
    assert json.loads(record.read_text()) == [5.0, 5.0]


def test_another_users_record_is_not_believed(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_text("[1.0, 1.0]")
    monkeypatch.setattr(os, "getuid", lambda: record.stat().st_uid + 1)
    assert known_quiet_us(record) is None


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "pace.json"
    remember(missing, 5.0)
    remember(None, 5.0)
    assert known_quiet_us(missing) is None
    assert known_quiet_us(None) is None


def test_a_write_that_fails_leaves_the_record_and_no_part(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(record, 5.0)

    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "replace", refuse)
    remember(record, 6.0)
    assert [path.name for path in record.parent.iterdir()] == [record.name]
    assert json.loads(record.read_text()) == [5.0]


def test_other_threads_other_cpus_and_another_start_have_records_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    monkeypatch.setattr(pace_record, "BOOT_ID", boot)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    paths = [record_path(2), record_path(1)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    paths.append(record_path(2))
    boot.write_text("two\n")
    paths.append(record_path(2))
    assert len(set(paths)) == 4
    assert all(path is not None and path.parent == Path(os.environ["VNAS_LOCK_DIR"]) for path in paths)
    boot.unlink()
    assert record_path(2) is None


@given(known=st.none() | st.floats(0.001, 100.0))
@settings(deadline=None)
def test_a_pace_that_is_known_does_not_become_one_that_was_seen(known: float | None) -> None:
    pace = HandoffPace(known)
    assert pace.seen_us is None
    pace.read_us()
    assert pace.seen_us is not None
    assert pace.seen_us > 0.0
    assert pace.quiet_us == (pace.seen_us if known is None else min(known, pace.seen_us))


def test_a_measurement_knows_what_earlier_ones_saw_and_adds_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "pace.json"
    record.write_text("[0.002, 0.001, 3.0]")
    monkeypatch.setattr("vnas.profiler.measuring.record_path", lambda threads: record)
    net = torch.nn.Linear(4, 4)
    found = measure(net, torch.zeros(1, 4), device="cpu", threads=2, min_seconds=0.0, max_seconds=0.2)
    assert found.quiet_us == 0.002
    assert found.contention == "yes"
    *before, added = json.loads(record.read_text())
    assert before == [0.002, 0.001, 3.0]
    assert added > 0.002


def test_one_thread_hands_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "pace.json"
    record.write_text("[0.002, 0.001]")
    monkeypatch.setattr("vnas.profiler.measuring.record_path", lambda threads: record)
    found = measure(lambda: None, device="cpu", threads=1, min_seconds=0.0, max_seconds=0.2)
    assert (found.quiet_us, found.discarded_ms) == (None, ())
    assert record.read_text() == "[0.002, 0.001]"
