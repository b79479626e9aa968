"""Kill -9, a locked database, a full disk: nothing completed is lost, nothing is counted twice, and a run says so."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from fault_driver import CHOICES, RUNGS, STUDY, Drivers, SleepingEvaluator, SleepingProblem, workers_of
from optuna.trial import FrozenTrial, TrialState

from vnas.search import store
from vnas.search.engine.driver import Driver
from vnas.search.engine.inline import InlineExecutor
from vnas.search.engine.ledger import RECOVERS, Ledger, was_left
from vnas.search.engine.reporting import Silent
from vnas.search.engine.rules import Rules
from vnas.search.policy.promotion import Limits
from vnas.search.terminal import Terminal

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")

Run = Callable[..., int]
Kept = dict[int, tuple[TrialState, list[float] | None, dict[str, Any], dict[str, Any]]]


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Drivers]:
    """Processes to kill."""
    made = Drivers(tmp_path)
    yield made
    made.close()


def trials_of(url: str, name: str = STUDY) -> list[FrozenTrial]:
    """Every trial there is; none where the study is not there yet."""
    try:
        storage = optuna.storages.RDBStorage(
            url,
            engine_kwargs={"poolclass": sqlalchemy.NullPool},  # nothing stays open, whatever goes wrong
            skip_table_creation=True,
            skip_compatibility_check=True,
        )
    except (AssertionError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError):
        return []  # killed before the tables were there
    try:
        return optuna.load_study(storage=storage, study_name=name).get_trials()
    except (KeyError, optuna.exceptions.StorageInternalError):
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


def kept(trials: list[FrozenTrial]) -> Kept:
    """What may never change again: trials that are complete or pruned, as they are stored."""
    return {
        trial.number: (trial.state, trial.values, trial.params, trial.user_attrs)
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    }


def judged(trials: list[FrozenTrial]) -> Counter[int]:
    """Distinct candidates by the rungs that they were judged at."""
    best: dict[str, int] = {}
    for trial in trials:
        name = trial.user_attrs.get("candidate")
        if name is not None:
            best[name] = max(best.get(name, 0), len(trial.user_attrs.get("rungs", ())))
    return Counter(rung for rungs in best.values() for rung in range(rungs))


def check_once(trials: list[FrozenTrial]) -> None:
    """A study that has ended holds each result once, and each trial that was left has one in its place."""
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    results = Counter(
        (trial.user_attrs["candidate"], len(trial.user_attrs["rungs"]))
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and "duplicate_of" not in trial.user_attrs
        and trial.user_attrs.get("rungs")
    )
    assert [result for result, times in results.items() if times > 1] == []
    assert [trial.number for trial in trials if trial.state == TrialState.FAIL and not was_left(trial)] == []
    # A trial in the place of another may find that a third has its candidate by now, or its place.
    places = [trial for trial in trials if RECOVERS in trial.user_attrs]
    own = [trial for trial in places if not {"withdrawn", "duplicate_of"} & trial.user_attrs.keys()]
    times = Counter(trial.user_attrs[RECOVERS] for trial in own)
    assert [number for number, count in times.items() if count > 1] == []
    left = {trial.number for trial in trials if was_left(trial) and trial.params}
    excused = {number for number in left if {"continues", "withdrawn"} & trials[number].user_attrs.keys()}
    assert left - excused <= {trial.user_attrs[RECOVERS] for trial in places} <= left


def check_journal(journal: Path, trials: list[FrozenTrial]) -> None:
    """No candidate was trained again at a rung but where a trial of it was left before its answer was stored."""
    begun, ended = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for line in journal.read_text().splitlines():
        what, digest, rung, _ = line.split()
        (begun if what == "begun" else ended)[digest, int(rung)] += 1
    left = Counter[tuple[str, int]]()
    for trial in trials:
        rung = len(trial.user_attrs.get("rungs", ()))
        if was_left(trial) and "candidate" in trial.user_attrs and rung < len(RUNGS):
            left[trial.user_attrs["candidate"], rung] += 1
    too_often = {key: (times, left[key]) for key, times in begun.items() if times > 1 + left[key]}
    assert too_often == {}
    for trial in trials:
        for rung in range(len(trial.user_attrs.get("rungs", ()))):
            assert ended[trial.user_attrs["candidate"], rung] >= 1


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Kill -9


def test_20_kills_of_drivers_and_workers(drivers: Drivers, tmp_path: Path) -> None:
    url, journal = f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "journal"
    words = (url, "--journal", journal, "--seconds", "0.15")
    chance = random.Random(20)
    before: Kept = {}
    killed: Counter[str] = Counter()
    driver = drivers.start(*words, "--trials", "75")
    for _ in range(20):
        if chance.random() < 0.8:
            at_work = lambda pid=driver: any(f" {worker}\n" in read(journal) for worker in workers_of(pid))  # noqa: E731
            wait_until(at_work)
            time.sleep(chance.uniform(0.0, 0.8))
        else:  # while it starts, as often as not
            time.sleep(chance.uniform(0.0, 0.8))
        # Not those that have begun nothing yet: three of them in a row end the run.
        workers = [worker for worker in workers_of(driver) if f" {worker}\n" in read(journal)]
        if workers and chance.random() < 0.5:
            killed["worker"] += 1
            with suppress(ProcessLookupError):  # it may have been replaced in this moment
                os.kill(chance.choice(workers), signal.SIGKILL)
        else:
            killed["driver"] += 1
            drivers.kill(driver)
            driver = drivers.start(*words, "--trials", "75")
        now = kept(trials_of(url))
        assert before.items() <= now.items()
        before = now
    assert min(killed["driver"], killed["worker"]) >= 5
    drivers.kill(driver)
    before = kept(trials_of(url))
    count = judged(trials_of(url))[0] + 4
    driver = drivers.start(*words, "--trials", count)
    assert drivers.wait(driver) == 0, drivers.log(driver)

    trials = trials_of(url)
    assert before.items() <= kept(trials).items()
    check_once(trials)
    check_journal(journal, trials)
    whole = f"sqlite:///{tmp_path / 'whole.db'}"
    undisturbed = drivers.start(whole, "--journal", tmp_path / "other", "--seconds", "0", "--workers", "0",
                                "--trials", count)  # fmt: skip
    assert drivers.wait(undisturbed) == 0
    assert judged(trials) == judged(trials_of(whole))
    assert judged(trials)[0] == count


class Killed(BaseException):
    """In place of kill -9: nothing is written any more, so nothing can be tidied up."""


class Mortal(optuna.storages.InMemoryStorage):
    """A storage whose process is killed before a write.

    Attributes:
        left: writes until then; None for no end.
    """

    left: int | None = None

    def _write(self) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1

    def create_new_trial(self, *rest: Any, **named: Any) -> int:
        self._write()
        return super().create_new_trial(*rest, **named)

    def set_trial_user_attr(self, *rest: Any, **named: Any) -> None:
        self._write()
        super().set_trial_user_attr(*rest, **named)

    def set_trial_system_attr(self, *rest: Any, **named: Any) -> None:
        self._write()
        super().set_trial_system_attr(*rest, **named)

    def set_trial_state_values(self, *rest: Any, **named: Any) -> bool:
        self._write()
        return super().set_trial_state_values(*rest, **named)


def drive(storage: Mortal, journal: Path, left: int | None) -> bool:
    """Begin or go on with a study of five candidates; False where it was killed after so many writes."""
    study = optuna.create_study(
        storage=storage, study_name=STUDY, directions=["maximize", "minimize"], load_if_exists=True
    )
    rules = Rules("random", Limits(candidates=5, epochs=None, seconds=None, spend=1 / 3))
    executor = InlineExecutor(SleepingEvaluator(str(journal), 0.0), lambda trial, share: None)
    storage.left = left
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        driver = Driver(SleepingProblem(), Ledger(study, CHOICES, "here"), rules, Silent())
        driver.recover()
        driver.run(executor)
    except Killed:
        return False
    finally:
        storage.left = None
    return True


def test_a_kill_before_any_write(tmp_path: Path) -> None:
    """Once before each write there is; and then once more, soon after the next start."""
    writes, ended = 0, False
    whole = Mortal()
    assert drive(whole, tmp_path / "whole", None)
    expected = judged(optuna.load_study(storage=whole, study_name=STUDY).get_trials())
    while not ended:
        storage, journal = Mortal(), tmp_path / f"journal-{writes}"
        ended = drive(storage, journal, writes)
        study = optuna.load_study(storage=storage, study_name=STUDY)
        before = kept(study.get_trials())
        drive(storage, journal, random.Random(writes).randrange(12))
        assert before.items() <= kept(study.get_trials()).items(), writes
        before = kept(study.get_trials())
        assert drive(storage, journal, None)
        trials = study.get_trials()
        assert before.items() <= kept(trials).items(), writes
        check_once(trials)
        check_journal(journal, trials)
        assert judged(trials) == expected, writes
        writes += 1
    assert writes > 50


def test_what_is_judged_is_not_in_the_queue() -> None:
    """Another driver is about to finish it, or to send it on; or was, and has ended."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    ledger = Ledger(study, CHOICES, "here")
    draw = {"width": 8, "depth": 1}
    ledger.queue(draw, {"rungs": [{"rung": 0, "val_top1": 50.0}], "continues": 0})
    assert ledger.take() is None
    number = ledger.queue(draw, {})
    taken = ledger.take()
    assert taken is not None
    assert taken.number == number


def test_the_next_start_says_what_it_recovered(drivers: Drivers, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    words = (url, "--journal", tmp_path / "journal", "--trials", "4")
    first = drivers.start(*words, "--seconds", "20")
    wait_until(lambda: read(tmp_path / "journal").count("begun") == 2)
    drivers.kill(first)
    second = drivers.start(*words, "--seconds", "0")
    assert drivers.wait(second) == 0
    assert "began with 0 candidates: Recovered(requeued=2, completed=0, stopped=0)" in drivers.log(second)
    check_once(trials_of(url))
    assert judged(trials_of(url))[0] == 4


TWO_RUNGS = ("--set", "rungs.shares=[0.5,1.0]", "--set", "training.epochs=2", "--set", "workers.retries=30")


def command(study: Path, out: Path, *arguments: str) -> list[str]:
    words = [sys.executable, "-m", "vnas.search", "--study", str(study), "--device", "cpu", "--out", str(out)]
    return [*words, *arguments]


def begin(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill -9; its workers notice."""
    left = workers_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in left))


@pytest.mark.slow
def test_20_kills_of_the_command(tiny: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    url = f"sqlite:///{out / 'study.db'}"
    words = command(tiny, out, "--trials", "400", "--workers", "2", "--resume", *TWO_RUNGS)
    chance = random.Random(7)
    before: Kept = {}
    killed: Counter[str] = Counter()
    process = begin(words, log)
    for _ in range(20):
        time.sleep(chance.uniform(2.0, 18.0))
        workers = workers_of(process.pid)
        if workers and chance.random() < 0.5:
            killed["worker"] += 1
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
        else:
            killed["driver"] += 1
            end(process)
            process = begin(words, log)
        now = kept(trials_of(url, "tiny"))
        assert before.items() <= now.items()
        before = now
    assert min(killed["driver"], killed["worker"]) >= 4
    end(process)
    before = kept(trials_of(url, "tiny"))
    count = judged(trials_of(url, "tiny"))[0] + 3
    final = command(tiny, out, "--trials", str(count), "--workers", "2", "--resume", *TWO_RUNGS)
    done = subprocess.run(final, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming: " in done.stdout

    trials = trials_of(url, "tiny")
    assert before.items() <= kept(trials).items()
    check_once(trials)
    assert judged(trials)[0] == count
    assert "Traceback" not in log.read_text()


# The storage


def locks_after_the_first_trial(monkeypatch: pytest.MonkeyPatch, lock: Callable[[], object]) -> None:
    announce = Terminal.trial_finished

    def announced(self: Terminal, *rest: Any) -> None:
        announce(self, *rest)
        lock()

    monkeypatch.setattr(Terminal, "trial_finished", announced)


def check_said(said: str, database: Path, why: str) -> None:
    assert said.startswith(f"error: the storage sqlite:///{database} failed: ")
    assert why in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_a_locked_database_ends_the_run_and_resume_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "run" / "study.db"
    monkeypatch.setattr(store, "_connect_args", lambda url: {"timeout": 0.2})
    with monkeypatch.context() as patched, closing(sqlite3.connect(tmp_path / "unused", isolation_level=None)) as other:

        def lock() -> None:
            other.execute("ATTACH ? AS studies", (str(database),))
            other.execute("BEGIN EXCLUSIVE")

        locks_after_the_first_trial(patched, lock)
        assert run("--workers", "0") == 1
        check_said(capsys.readouterr().err, database, "database is locked")
        # And while it is locked, so does the next.
        patched.undo()
        monkeypatch.setattr(store, "_connect_args", lambda url: {"timeout": 0.2})
        assert run("--workers", "0", "--resume") == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: the storage sqlite:///{database} ")
        assert "locked" in said
    before = kept(trials_of(f"sqlite:///{database}", "tiny"))
    assert len(before) == 1
    assert run("--workers", "0", "--resume") == 0
    trials = trials_of(f"sqlite:///{database}", "tiny")
    assert before.items() <= kept(trials).items()
    check_once(trials)
    assert judged(trials)[0] == 4


def test_a_full_disk_ends_the_run_and_resume_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "run" / "study.db"
    full: list[bool] = []

    def begun(connection: sqlalchemy.Connection) -> None:
        if full:
            connection.exec_driver_sql("PRAGMA max_page_count=1")  # SQLite takes its size of now

    sqlalchemy.event.listen(sqlalchemy.Engine, "begin", begun)
    try:
        with monkeypatch.context() as patched:
            locks_after_the_first_trial(patched, lambda: full.append(True))
            assert run("--workers", "0", "--trials", "30") == 1
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "begin", begun)
    check_said(capsys.readouterr().err, database, "full")
    before = kept(trials_of(f"sqlite:///{database}", "tiny"))
    assert before
    count = len(before) + 2
    assert run("--workers", "0", "--resume", "--trials", str(count)) == 0
    trials = trials_of(f"sqlite:///{database}", "tiny")
    assert before.items() <= kept(trials).items()
    check_once(trials)
    assert judged(trials)[0] == count


@pytest.mark.slow
def test_a_disk_that_fills_up_under_the_command(tiny: Path, tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False,
                                     capture_output=True).returncode:  # fmt: skip
        pytest.skip("a file system of a few MB cannot be mounted here")
    try:
        out = disk / "run"
        url = f"sqlite:///{out / 'study.db'}"
        process = begin(command(tiny, out, "--trials", "400", "--workers", "1", *TWO_RUNGS), log)
        wait_until(lambda: "trial   1" in log.read_text() or process.poll() is not None, 180)
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"\0" * 1024)
        assert process.wait(180) == 1, log.read_text()
        said = log.read_text()
        assert "Traceback" not in said
        assert "error: " in said
        before = kept(trials_of(url, "tiny"))
        (disk / "filler").unlink()
        count = judged(trials_of(url, "tiny"))[0] + 2
        again = command(tiny, out, "--trials", str(count), "--workers", "1", "--resume", *TWO_RUNGS)
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        trials = trials_of(url, "tiny")
        assert before.items() <= kept(trials).items()
        assert judged(trials)[0] == count
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


# Others who read the storage


def test_optunas_own_commands_read_the_storage(run: Run, tmp_path: Path) -> None:
    assert run("--workers", "0", "--trials", "2") == 0
    url = f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    optuna_command = shutil.which("optuna", path=str(Path(sys.executable).parent)) or shutil.which("optuna")
    if optuna_command is None:
        pytest.skip("the optuna command is not installed")

    def rows(name: str) -> list[dict[str, Any]]:
        words = [optuna_command, name, "--storage", url, "--study-name", "tiny", "--format", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    trials = trials_of(url, "tiny")
    assert [row["number"] for row in rows("trials")] == [trial.number for trial in trials]
    best = rows("best-trials")
    assert best
    assert {row["number"] for row in best} <= {t.number for t in trials if t.state == TrialState.COMPLETE}


def test_the_dashboard_serves_the_storage(run: Run, tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    assert run("--workers", "0", "--trials", "2") == 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'run' / 'study.db'}")
    answers: list[str] = []
    request = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "here", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": sys.stdin, "wsgi.errors": sys.stderr,
    }  # fmt: skip
    body = b"".join(dashboard.wsgi(storage)(request, lambda status, headers, *rest: answers.append(status)))
    assert answers == ["200 OK"]
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["tiny"]
    storage.remove_session()
    storage.engine.dispose()
