"""Locks between real processes, which are really killed. ``alone`` is a measurer, ``shared`` a trainer."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import torch
from nvml_processes import ROOT

from vnas.errors import MeasurementError
from vnas.profiler import lock, lock_file
from vnas.profiler.lock import device_lock, lock_key

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX record locks")

HOLD = """
import os, sys, time
from vnas.profiler.lock import device_lock
with device_lock("GPU-1", exclusive=sys.argv[1] == "alone", on_wait=lambda line: print("waits", line, flush=True)):
    if "fork" in sys.argv:
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        print(child, flush=True)
    print("holds", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""

Hold = Callable[..., "Holder"]


class Holder:
    """A process that takes the lock, and keeps it until it is told to leave."""

    def __init__(self, *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *how], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def says(self) -> str:
        patience = threading.Timer(10, self.process.kill)
        patience.start()
        line = _pipe(self.process.stdout).readline().strip()
        patience.cancel()
        return line

    def leave(self) -> None:
        _pipe(self.process.stdin).write("\n")
        _pipe(self.process.stdin).flush()
        assert self.says() == "left"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VNAS_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    return tmp_path / "locks"


@pytest.fixture
def hold() -> Iterator[Hold]:
    started: list[Holder] = []

    def start(*how: str, says: str = "holds") -> Holder:
        started.append(Holder(*how))
        if says:
            assert started[-1].says().startswith(says)
        return started[-1]

    yield start
    for holder in started:
        holder.kill()
        _pipe(holder.process.stdin).close()
        _pipe(holder.process.stdout).close()


def free(how: str = "alone", key: str = "GPU-1") -> bool:
    try:
        with device_lock(key, exclusive=how == "alone", timeout_seconds=0) as held:
            assert held.note is None
            return True
    except MeasurementError:
        return False


def test_who_may_be_on_a_device_together(hold: Hold) -> None:
    #                 holds:   nobody  a measurer  a trainer
    # a measurer may come in:  yes     no          no
    # a trainer may come in:   yes     no          yes
    assert (free("alone"), free("shared")) == (True, True)
    measurer = hold("alone")
    assert (free("alone"), free("shared")) == (False, False)
    assert free("alone", key="GPU-2")
    measurer.leave()
    trainer = hold("shared")
    assert (free("alone"), free("shared")) == (False, True)
    trainer.leave()
    assert (free("alone"), free("shared")) == (True, True)


def test_a_killed_holder_holds_nothing_though_its_child_lives(hold: Hold) -> None:
    holder = hold("alone", "fork", says="")
    child = int(holder.says())
    assert holder.says() == "holds"
    try:
        assert not free()
        holder.kill()
        os.kill(child, 0)
        assert free()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_holder_is_named_and_killing_it_frees_the_device(hold: Hold) -> None:
    holder = hold("alone")
    os.kill(holder.pid, signal.SIGSTOP)
    said = rf"GPU-1 is being measured by process {holder.pid} \(python.* -c .*\) since \d\d:\d\d; waited 0.02 s for it"
    with pytest.raises(MeasurementError, match=said), device_lock("GPU-1", timeout_seconds=0.02):
        pass
    holder.kill()
    assert free()


def test_a_waiting_measurer_is_not_starved_by_trainers(hold: Hold) -> None:
    trainer = hold("shared")
    measurer = hold("alone", says="waits")
    assert not free("shared")  # though the device itself could be shared
    trainer.leave()
    assert measurer.says() == "holds"
    measurer.leave()
    assert free("shared")


def test_a_waiting_trainer_is_not_starved_by_measurers(hold: Hold) -> None:
    first = hold("alone")
    trainer = hold("shared", says="waits")
    second = hold("alone", says="waits")
    first.leave()
    assert trainer.says() == "holds"
    trainer.leave()
    assert second.says() == "holds"


def test_one_who_waits_is_told_by_whom_and_reminded(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = hold("shared")
    said: list[str] = []

    def told(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            trainer.leave()

    monkeypatch.setattr(lock, "REMIND_SECONDS", 0.05)
    with device_lock("GPU-1", on_wait=told):
        pass
    assert len(said) == 2
    assert said[0].startswith(f"GPU-1 is being trained on by process {trainer.pid} (python")
    assert said[0].endswith("; waiting")


def test_a_wait_that_nobody_is_told_of_is_logged(
    hold: Hold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = hold("shared")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        if not pauses:
            trainer.leave()
        pauses.append(seconds)

    monkeypatch.setattr(lock, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    with device_lock("GPU-1"):
        pass
    (name, level, line), *_ = caplog.record_tuples
    assert (name, level) == ("vnas.profiler", logging.WARNING)
    assert line.startswith(f"GPU-1 is being trained on by process {trainer.pid} (python")
    assert line.endswith("; waiting")


def test_without_waiting_nothing_is_said() -> None:
    said: list[str] = []
    with device_lock("GPU-1", on_wait=said.append):
        pass
    assert said == []


def test_a_wait_that_is_broken_off_leaves_the_turnstile(hold: Hold) -> None:
    trainer = hold("shared")

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), device_lock("GPU-1", on_wait=interrupted):
        pass
    hold("shared").leave()
    trainer.leave()
    assert free()


def elsewhere(how: str) -> bool:
    """Whether another process could come in."""
    script = (
        "import sys\nfrom vnas.errors import MeasurementError\nfrom vnas.profiler.lock import device_lock\n"
        "try:\n    with device_lock('GPU-1', exclusive=sys.argv[1] == 'alone', timeout_seconds=0): pass\n"
        "except MeasurementError: sys.exit(1)"
    )
    return subprocess.run([sys.executable, "-c", script, how], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("inner", ["alone", "shared"])
def test_a_thread_that_holds_it_alone_goes_straight_in_again(inner: str) -> None:
    with device_lock("GPU-1") as outer:
        with device_lock("GPU-1", exclusive=inner == "alone", timeout_seconds=0) as held:
            assert held == outer
        assert not elsewhere("shared")
    assert elsewhere("alone")


def test_to_measure_within_a_share_is_said_to_be_shared() -> None:
    with device_lock("GPU-1", exclusive=False) as outer, device_lock("GPU-1", exclusive=False):
        assert outer.note is None
        with device_lock("GPU-1", timeout_seconds=0) as held:
            assert held.note == "GPU-1 is measured inside a block that trains on it, so others may train on it too"
        assert not elsewhere("alone")
    assert elsewhere("alone")


def test_an_error_in_the_block_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), device_lock("GPU-1"):
        raise ZeroDivisionError
    assert elsewhere("alone")


@pytest.mark.parametrize(
    ("holds", "asks", "together"),
    [("alone", "alone", False), ("alone", "shared", False), ("shared", "alone", False), ("shared", "shared", True)],
)
def test_threads_of_one_process_exclude_each_other_too(holds: str, asks: str, together: bool) -> None:
    came_in = threading.Event()
    said: list[str] = []
    waits = threading.Event()

    def other() -> None:
        with device_lock("GPU-1", exclusive=asks == "alone", on_wait=lambda line: (said.append(line), waits.set())):
            came_in.set()

    thread = threading.Thread(target=other)
    with device_lock("GPU-1", exclusive=holds == "alone"):
        thread.start()
        assert (came_in if together else waits).wait(5)
        assert came_in.is_set() == together
        if said:
            assert "by another thread of this process since" in said[0]
    thread.join(5)
    assert came_in.is_set()
    assert elsewhere("alone")


def test_a_thread_that_waits_to_measure_is_not_starved_by_another(hold: Hold) -> None:
    trainer = hold("shared")
    waits = threading.Event()

    def measurer() -> None:
        with device_lock("GPU-1", on_wait=lambda line: waits.set()):
            pass

    thread = threading.Thread(target=measurer)
    thread.start()
    assert waits.wait(5)
    assert not free("shared")
    trainer.leave()
    thread.join(5)
    assert free("shared")


def test_one_threads_share_outlives_anothers() -> None:
    with ExitStack() as first:
        first.enter_context(device_lock("GPU-1", exclusive=False))
        thread = threading.Thread(target=free, args=("shared",))
        thread.start()
        thread.join(5)
        assert not elsewhere("alone")
    assert elsewhere("alone")


def test_a_child_forked_inside_the_block_holds_nothing_and_takes_nothing_away() -> None:
    script = """
import json, os
from vnas.errors import MeasurementError
from vnas.profiler.lock import device_lock
def free():
    try:
        with device_lock("GPU-1", timeout_seconds=0):
            return True
    except MeasurementError:
        return False
receive, send = os.pipe()
with device_lock("GPU-1"):
    child = os.fork()
    if child:
        os.waitpid(child, 0)  # it has left the block that it was forked in
        after_child = os.fork()
        if not after_child:
            os._exit(free())
        print(os.waitstatus_to_exitcode(os.waitpid(after_child, 0)[1]))
    else:
        os.write(send, json.dumps(free()).encode())
if not child:
    os._exit(0)
print(os.read(receive, 99).decode(), json.dumps(free()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0", "false true"]


def note() -> str | None:
    with device_lock("GPU-1", timeout_seconds=0) as held:
        return held.note


def test_the_files_can_be_shared_by_users_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        assert free()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o666]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_two_users_exclude_each_other() -> None:
    script = """
import os, tempfile
from vnas.errors import MeasurementError
from vnas.profiler.lock import device_lock
def nobody():
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            with device_lock("GPU-1", timeout_seconds=0) as held:
                os.write(send, str(held.note).encode())
        except MeasurementError as error:
            os.write(send, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(receive, 999).decode())
with tempfile.TemporaryDirectory() as folder:  # under /tmp: the folders of pytest are closed to other users
    os.chmod(folder, 0o755)
    os.environ["VNAS_LOCK_DIR"] = f"{folder}/locks"
    with device_lock("GPU-1"):
        print(os.getpid())
        nobody()
    nobody()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    pid, during, after = done.stdout.splitlines()
    assert during.startswith(f"GPU-1 is being measured by process {pid} ")
    assert after == "None"


def _folder_is_a_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def _file_is_a_link(folder: Path) -> None:
    folder.mkdir()
    (folder / "GPU-1.lock").symlink_to(folder.parent / "victim")


def _file_is_a_hard_link(folder: Path) -> None:
    folder.mkdir()
    (folder / "GPU-1.lock").hardlink_to(folder.parent / "victim")


def _file_is_a_pipe(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "GPU-1.lock")


def _folder_is_a_file(folder: Path) -> None:
    folder.write_text("")


@pytest.mark.parametrize(
    "trap", [_folder_is_a_link, _file_is_a_link, _file_is_a_hard_link, _file_is_a_pipe, _folder_is_a_file]
)
def test_traps_are_not_stepped_into(folder: Path, trap: Callable[[Path], None]) -> None:
    victim = folder.parent / "victim"
    victim.write_text("untouched")
    trap(folder)
    said = note()
    assert said is not None
    assert said.startswith(f"no lock on GPU-1: {folder}/GPU-1.lock cannot be used (")
    assert "set VNAS_LOCK_DIR to a folder" in said
    assert victim.read_text() == "untouched"


def test_a_file_system_without_locks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    assert "cannot be used (No locks available)" in (note() or "")


def test_a_folder_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, parents: bool) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert "cannot be used (Read-only file system)" in (note() or "")


def test_a_system_without_record_locks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert note() == "no lock on GPU-1: this system has no POSIX record locks"


def test_a_file_that_was_deleted_is_made_anew(folder: Path) -> None:
    assert free()
    (folder / "GPU-1.lock").unlink()
    with device_lock("GPU-1"):
        assert not elsewhere("alone")


def test_another_folder_is_another_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_lock("GPU-1"):
        monkeypatch.setenv("VNAS_LOCK_DIR", str(tmp_path / "others"))
        assert free()


def test_the_default_folder_is_the_same_for_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VNAS_LOCK_DIR")
    monkeypatch.setenv("TMPDIR", "/somewhere")
    assert lock_file.place("GPU-1/../x") == Path("/tmp/vnas-locks/GPU-1_.._x.lock")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"pid": 1}', '{"pid": -1, "what": "x", "since": 0, "exclusive": true}', '{"pid": "x"}',
     '{"pid": 1, "what": "x", "since": 1e300, "exclusive": true}', "\xff\x00"],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_nobody_in_particular(hold: Hold, folder: Path, text: str) -> None:
    hold("alone")
    (folder / "GPU-1.lock").write_text(text, encoding="latin-1")
    with pytest.raises(MeasurementError, match="GPU-1 is held by another process; waited 0 s"):
        device_lock("GPU-1", timeout_seconds=0).__enter__()


def test_a_record_cannot_steer_a_terminal(hold: Hold, folder: Path) -> None:
    holder = hold("alone")
    record = {"pid": holder.pid, "what": "\x1b[2Jxy\n" + "z" * 999, "since": 0, "exclusive": True}
    (folder / "GPU-1.lock").write_text(json.dumps(record))
    with pytest.raises(MeasurementError) as got:
        device_lock("GPU-1", timeout_seconds=0).__enter__()
    assert "(?[2Jxy?zzz" not in str(got.value)  # longer than what is read
    (folder / "GPU-1.lock").write_text(json.dumps({**record, "what": "\x1b[2Jxy\n" + "z" * 199}))
    with pytest.raises(MeasurementError) as got:
        device_lock("GPU-1", timeout_seconds=0).__enter__()
    assert f"({'?[2Jxy?' + 'z' * 153})" in str(got.value)


@pytest.mark.parametrize("ends", [Holder.leave, Holder.kill])
def test_one_who_has_gone_is_not_named(hold: Hold, folder: Path, ends: Callable[[Holder], None]) -> None:
    first, second, third = hold("shared"), hold("shared"), hold("shared")
    first.leave()
    with pytest.raises(MeasurementError, match=f"GPU-1 is being trained on by process {third.pid} "):
        device_lock("GPU-1", timeout_seconds=0).__enter__()
    ends(third)
    with pytest.raises(MeasurementError, match="GPU-1 is held by another process"):
        device_lock("GPU-1", timeout_seconds=0).__enter__()
    second.leave()


def test_after_the_last_nobody_is_written_down(hold: Hold, folder: Path) -> None:
    hold("alone").leave()
    assert (folder / "GPU-1.lock").read_bytes().strip() == b""


@pytest.mark.parametrize(
    ("name", "uuid", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "aaa", "GPU-aaa"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bbb", "MIG-bbb"),
        ("a GPU", "GPU-ccc", "GPU-ccc"),
        ("a GPU", "MIG-ddd", "MIG-ddd"),
    ],
)
def test_a_gpu_is_locked_by_its_uuid(monkeypatch: pytest.MonkeyPatch, name: str, uuid: str, key: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"{name}" if index == 1 else "another")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuid if index == 1 else "zzz")
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert lock_key(torch.device("cuda", 1)) == lock_key(torch.device("cuda")) == key


def test_the_cpu_is_locked_as_one() -> None:
    assert lock_key(torch.device("cpu")) == "cpu"
