"""Several drivers on one study in PostgreSQL: each candidate once, whoever is killed, paused or cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fault_driver
import optuna
import postgres_server
import pytest
import sqlalchemy
from fault_driver import Drivers
from optuna.trial import TrialState
from postgres_server import PASSWORD, Server
from test_search_faults import TWO_RUNGS, begin, check_journal, check_once, judged, kept, read, trials_of, wait_until

from vnas.search.engine.ledger import RECOVERS, Ledger, was_left

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

HEARTBEAT_SECONDS = 1
GRACE_SECONDS = 3 * HEARTBEAT_SECONDS


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Running."""
    if (reason := postgres_server.why_not()) is not None:
        pytest.skip(reason)
    made = Server()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> str:
    """Of a database of this test's own."""
    return server.new_database(f"test_{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Drivers]:
    """Processes to kill."""
    made = Drivers(tmp_path, shared=True)
    yield made
    made.close()


def words(url: str, tmp_path: Path, **options: object) -> list[object]:
    """The arguments of a driver."""
    named = {"heartbeat": HEARTBEAT_SECONDS, "workers": 0, "journal": tmp_path / "journal", **options}
    return [url, *(word for name, value in named.items() for word in (f"--{name}", value))]


def check_password(*said: str) -> None:
    for text in said:
        assert PASSWORD not in text
        assert "Traceback" not in text


# Drivers of candidates that only sleep


def test_two_drivers_share_a_study(drivers: Drivers, url: str, tmp_path: Path) -> None:
    pids = [drivers.start(*words(url, tmp_path, trials=16, seconds=0.3, seed=seed)) for seed in (0, 0)]
    assert [drivers.wait(pid) for pid in pids] == [0, 0], [drivers.log(pid) for pid in pids]
    trials = trials_of(url)
    check_once(trials)
    check_journal(tmp_path / "journal", trials)
    assert judged(trials)[0] == 16
    assert [trial.number for trial in trials if trial.user_attrs.get("unexpected")] == []
    by = Counter(trial.user_attrs["driver"] for trial in trials if trial.state == TrialState.COMPLETE)
    assert len(by) == 2  # both did some of it
    check_password(*(drivers.log(pid) for pid in pids))
    assert PASSWORD not in json.dumps([trial.user_attrs for trial in trials])


def new_study(url: str) -> optuna.Study:
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": sqlalchemy.NullPool})
    return optuna.create_study(storage=storage, study_name=fault_driver.STUDY, directions=["maximize", "minimize"])


def test_a_queue_is_shared(drivers: Drivers, url: str, tmp_path: Path) -> None:
    study = new_study(url)
    ledger = Ledger(study, fault_driver.CHOICES, "test")
    for number in range(10):
        ledger.queue({"width": 8 * (number + 1), "depth": 3}, {"preset": True})
    pids = [drivers.start(*words(url, tmp_path, trials=10, seconds=0.2, seed=seed)) for seed in range(3)]
    assert [drivers.wait(pid) for pid in pids] == [0, 0, 0], [drivers.log(pid) for pid in pids]
    trials = trials_of(url)
    check_once(trials)
    check_journal(tmp_path / "journal", trials)
    assert [trial.params["depth"] for trial in trials[:10]] == [3] * 10
    assert sum(trial.state == TrialState.COMPLETE for trial in trials[:10]) == 10
    assert judged(trials)[0] == 10


def test_a_trial_that_takes_long_is_not_taken_away(drivers: Drivers, url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    slow = drivers.start(*words(url, tmp_path, trials=3, seconds=3 * GRACE_SECONDS))
    wait_until(lambda: "begun" in read(journal))
    other = drivers.start(*words(url, tmp_path, trials=3, seconds=0.5, seed=1))
    assert [drivers.wait(pid) for pid in (other, slow)] == [0, 0], drivers.log(other) + drivers.log(slow)
    trials = trials_of(url)
    assert [trial for trial in trials if was_left(trial) and "withdrawn" not in trial.user_attrs] == []
    check_journal(journal, trials)
    assert judged(trials)[0] == 3


def test_a_killed_drivers_trial_is_done_by_the_other_once(drivers: Drivers, url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    victim = drivers.start(*words(url, tmp_path, trials=8, seconds=60))
    wait_until(lambda: "begun" in read(journal))
    other = drivers.start(*words(url, tmp_path, trials=8, seconds=1.5, seed=1))
    wait_until(lambda: "ended" in read(journal))
    drivers.kill(victim)
    assert drivers.wait(other) == 0, drivers.log(other)
    trials = trials_of(url)
    left = [trial for trial in trials if was_left(trial) and "withdrawn" not in trial.user_attrs]
    assert [trial.user_attrs["driver"] for trial in left] == [f"driver/{victim}"]
    assert [trial.user_attrs.get(RECOVERS) for trial in trials].count(left[0].number) == 1
    check_once(trials)
    check_journal(journal, trials)
    assert judged(trials)[0] == 8


def test_the_last_trial_of_a_killed_driver_is_not_left_undone(drivers: Drivers, url: str, tmp_path: Path) -> None:
    """The other has nothing else to do, and less time to go than the grace."""
    journal = tmp_path / "journal"
    victim = drivers.start(*words(url, tmp_path, trials=2, seconds=60))
    wait_until(lambda: "begun" in read(journal))
    other = drivers.start(*words(url, tmp_path, trials=2, seconds=1, seed=1))
    wait_until(lambda: read(journal).count("begun") == 2)
    drivers.kill(victim)
    assert drivers.wait(other) == 0, drivers.log(other)
    trials = trials_of(url)
    check_once(trials)
    assert judged(trials)[0] == 2


def test_a_driver_that_was_thought_dead_goes_on_without_its_trial(drivers: Drivers, url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    paused = drivers.start(*words(url, tmp_path, trials=8, seconds=1.0))
    wait_until(lambda: "begun" in read(journal))
    os.kill(paused, signal.SIGSTOP)
    other = drivers.start(*words(url, tmp_path, trials=8, seconds=0.5, seed=1))
    wait_until(lambda: any(RECOVERS in trial.user_attrs for trial in trials_of(url)))
    os.kill(paused, signal.SIGCONT)
    assert [drivers.wait(other), drivers.wait(paused)] == [0, 0], drivers.log(paused) + drivers.log(other)
    trials = trials_of(url)
    check_once(trials)
    assert judged(trials)[0] == 8
    check_password(drivers.log(paused), drivers.log(other))


@pytest.mark.parametrize("got_to", ["drawn", "judged at the first rung", "judged at the last rung"])
def test_three_drivers_recover_at_once(got_to: str, drivers: Drivers, url: str, tmp_path: Path) -> None:
    """Each of five trials that were left is replaced once, however the three hit upon them."""
    study = new_study(url)
    problem, numbers = fault_driver.SleepingProblem(), range(5)
    judged_at = ["drawn", "judged at the first rung", "judged at the last rung"].index(got_to)
    for number in numbers:
        draw = {"width": 8 * (number + 1), "depth": 2}
        subject = problem.subject(draw)
        rungs = [{"rung": rung, "val_top1": 50.0, "epochs": 1.0, "epochs_spent": 1.0} for rung in range(judged_at)]
        known = {"latency_ms": 1.0, "val_top1": 50.0, "rungs": rungs} if rungs else {}
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL,
                params=draw,
                distributions={
                    name: optuna.distributions.CategoricalDistribution(choices)
                    for name, choices in fault_driver.CHOICES.items()
                },
                user_attrs={**subject.attributes, **known, "interrupted": True},
            )
        )
    at = time.time() + 4
    pids = [drivers.start(*words(url, tmp_path), "--recover-at", at) for _ in range(3)]
    assert [drivers.wait(pid) for pid in pids] == [0, 0, 0], [drivers.log(pid) for pid in pids]
    trials = trials_of(url)
    places = Counter(
        trial.user_attrs[RECOVERS]
        for trial in trials
        if RECOVERS in trial.user_attrs and trial.state != TrialState.FAIL
    )
    assert places == Counter(numbers), [drivers.log(pid) for pid in pids]


def test_kills_among_three_drivers(drivers: Drivers, url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    start = lambda seed: drivers.start(*words(url, tmp_path, trials=40, seconds=0.4, workers=1, seed=seed))  # noqa: E731
    pids = [start(seed) for seed in range(3)]
    before: dict[int, object] = {}
    for round_ in range(6):
        seen = read(journal).count("begun")
        wait_until(lambda seen=seen: read(journal).count("begun") > seen + 2)
        drivers.kill(pids[round_ % 3])
        now = kept(trials_of(url))
        assert before.items() <= now.items()
        before = dict(now)
        pids[round_ % 3] = start(round_ + 3)
    assert [drivers.wait(pid) for pid in pids] == [0, 0, 0], [drivers.log(pid) for pid in pids]
    trials = trials_of(url)
    if any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials):  # the last to end was killed
        time.sleep(GRACE_SECONDS + 1)
        assert drivers.wait(start(99)) == 0
        trials = trials_of(url)
    check_once(trials)
    check_journal(journal, trials)
    assert judged(trials)[0] == 40


# The command


def command(study: Path, out: Path, url: str, *arguments: str, first: str = "pass") -> list[str]:
    """The command with quick heartbeats, after a statement of the test's."""
    lines = [
        "import pathlib, sys, time",
        "import vnas.search.store as store",
        f"store.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS}",
        first,
        "from vnas.search.cli import main",
        "sys.exit(main())",
    ]
    words = [sys.executable, "-c", "\n".join(lines), "--study", str(study), "--device", "cpu", "--out", str(out)]
    return [*words, "--storage", url, "--workers", "0", *TWO_RUNGS, *arguments]


MEET = """
create = store.create
def after_the_other(*rest, **named):
    folder = pathlib.Path({folder!r})
    (folder / {name!r}).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.001)
    return create(*rest, **named)
store.create = after_the_other
"""


def everything_in(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def study_attributes(url: str) -> str:
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": sqlalchemy.NullPool})
    study = optuna.load_study(storage=storage, study_name="tiny")
    return json.dumps(
        [
            study.user_attrs,
            storage.get_study_system_attrs(study._study_id),
            [trial.user_attrs for trial in study.trials],
        ]
    )


def test_the_command_twice_at_once(tiny: Path, url: str, tmp_path: Path) -> None:
    outs, logs = [tmp_path / "one", tmp_path / "two"], [tmp_path / "one.log", tmp_path / "two.log"]
    (tmp_path / "meet").mkdir()
    processes = [
        begin(
            command(tiny, out, url, "--trials", "8", first=MEET.format(folder=str(tmp_path / "meet"), name=out.name)),
            log,
        )
        for out, log in zip(outs, logs, strict=True)
    ]
    codes = [process.wait(400) for process in processes]
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], said
    check_password(*said, *map(everything_in, outs), study_attributes(url))
    assert not any("Warning" in text for text in said)
    trials = trials_of(url, "tiny")
    check_once(trials)
    assert judged(trials)[0] == 8
    assert sum("trained anew" in text for text in said) == 1
    assert sorted("resuming: " in text for text in said) == [False, True]


def test_another_kind_of_device_is_refused(tiny: Path, url: str, tmp_path: Path) -> None:
    assert subprocess.run(command(tiny, tmp_path / "one", url, "--trials", "1"), check=False).returncode == 0
    toaster = "import vnas.profiler.environment as e; e.cpu_kind = lambda: 'a toaster, 1 CPU'"
    words = command(tiny, tmp_path / "two", url, "--trials", "2", "--resume", first=toaster)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: study 'tiny' measures latency on " in done.stderr
    assert "this is a toaster, 1 CPU" in done.stderr
    check_password(done.stdout, done.stderr)
    assert judged(trials_of(url, "tiny"))[0] == 1


def test_a_server_that_stops_ends_the_run_and_resume_goes_on(
    tiny: Path, server: Server, url: str, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = begin(command(tiny, out, url, "--trials", "400"), log)
    wait_until(lambda: "trial   1" in read(log) or process.poll() is not None, 180)
    server.stop()
    try:
        assert process.wait(120) == 1, log.read_text()
        away = subprocess.run(command(tiny, out, url, "--resume"), capture_output=True, text=True, check=False)
    finally:
        server.start()
    said = log.read_text()
    check_password(said, away.stdout, away.stderr, everything_in(out))
    error = said[said.index("error: ") :]
    shown = url.replace(PASSWORD, "***")
    assert error.startswith(f"error: the storage {shown} failed: ")
    assert "--resume" in error
    assert away.returncode in (1, 2)
    assert f"the storage {shown} cannot be opened" in away.stderr

    before = kept(trials_of(url, "tiny"))
    assert before
    time.sleep(GRACE_SECONDS + 1)
    count = judged(trials_of(url, "tiny"))[0] + 2
    again = command(tiny, out, url, "--trials", str(count), "--resume")
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = trials_of(url, "tiny")
    assert before.items() <= kept(trials).items()
    check_once(trials)
    assert judged(trials)[0] == count
    check_password(done.stdout, done.stderr, everything_in(out))


def test_a_wrong_password_is_not_shown(tiny: Path, server: Server, tmp_path: Path) -> None:
    words = command(tiny, tmp_path / "run", server.url(password="wr0ng-" + PASSWORD))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "password authentication failed" in done.stderr
    check_password(done.stdout, done.stderr)
