"""Worker processes whose evaluators cost nothing: whatever becomes of one, each job ends once and nothing is left."""

import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import fake_evaluators as fakes
import pytest
from fake_evaluators import measuring, training

from vnas.errors import ConfigError, DeviceError, VnasError
from vnas.search.engine.protocol import Advance, Answer, Event, Failure, Job
from vnas.search.workers.channel import DriverEnd, Ready, WorkerEnd, packed
from vnas.search.workers.pool import ProcessPool, WorkerPlan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups")

PATIENCE_SECONDS = 60.0
"""For what takes a fraction of a second on an idle machine."""

NewPool = Callable[..., ProcessPool]


@pytest.fixture
def new_pool() -> Iterator[NewPool]:
    """``new_pool(plan, ...)``: closed after the test, which then has no processes."""
    pools: list[ProcessPool] = []

    def make(*plans: WorkerPlan, hang_seconds: float | None = PATIENCE_SECONDS) -> ProcessPool:
        pools.append(ProcessPool(plans or [WorkerPlan(fakes.scripted, name="cuda:1")], hang_seconds))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert not multiprocessing.active_children()


@pytest.fixture
def pool(new_pool: NewPool) -> ProcessPool:
    """Of one worker."""
    return new_pool()


def ended(pool: ProcessPool) -> Answer | Failure:
    """The next end of a job."""
    while isinstance(event := happened(pool), Advance):
        pass
    return event


def happened(pool: ProcessPool) -> Event:
    event = pool.wait(PATIENCE_SECONDS)
    assert event is not None, "nothing happened"
    return event


def done(pool: ProcessPool, job: Job) -> Answer | Failure:
    pool.submit(job)
    event = ended(pool)
    assert event.job is job
    return event


def answered(pool: ProcessPool, job: Job) -> dict[str, object]:
    event = done(pool, job)
    assert isinstance(event, Answer), event
    return event.attributes


def failed(pool: ProcessPool, job: Job) -> Failure:
    event = done(pool, job)
    assert isinstance(event, Failure), event
    return event


def gone(pid: int) -> bool:
    """Whether a process has ended; one whose new parent does not ask for its end has too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.02)
    return False


class TestJobs:
    def test_answers_are_plain_values_of_one_process(self, pool: ProcessPool) -> None:
        first = answered(pool, measuring(0, "latency=3.5"))
        assert first == {"pid": pool.pids[0], "latency_ms": 3.5, "interval_ms": [1.0, 2.0]}
        second = answered(pool, training(1, "hurries=1", rung=2))
        assert second == {"pid": first["pid"], "rung": 2, "epochs": 1}

    def test_progress_is_told_now_and_then_and_never_of_a_job_that_is_done(self, pool: ProcessPool) -> None:
        job, next_job = training(0, "hurries=20000"), measuring(1, "nap=0.6")
        pool.submit(job)
        events = [happened(pool)]
        while not isinstance(events[-1], Answer):
            events.append(happened(pool))
        advances = [event for event in events if isinstance(event, Advance)]
        assert [event.job for event in advances] == [job] * len(advances)
        shares = [event.share for event in advances]
        assert shares[0] == 0.0
        assert shares == sorted(shares)
        assert len(shares) < 100
        pool.submit(next_job)
        assert isinstance(happened(pool), Answer)

    def test_workers_work_side_by_side(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.scripted), WorkerPlan(fakes.scripted))
        assert pool.slots == 2
        for trial in range(2):
            pool.submit(measuring(trial, "nap=0.5"))
        with pytest.raises(RuntimeError, match="all 2 workers have a job"):
            pool.submit(measuring(2, "nap=0"))
        events = [ended(pool), ended(pool)]
        assert {event.job.trial for event in events} == {0, 1}
        assert {event.attributes["pid"] for event in events if isinstance(event, Answer)} == set(pool.pids)

    def test_nothing_happens_where_there_is_nothing_to_do(self, pool: ProcessPool) -> None:
        before = pool.clock()
        assert pool.wait(0.1) is None
        assert pool.clock() - before >= 0.1
        assert pool.wait(0.0) is None

    def test_a_process_has_the_environment_and_cpus_of_its_plan(self, new_pool: NewPool) -> None:
        cpus = frozenset([min(os.sched_getaffinity(0))]) if hasattr(os, "sched_getaffinity") else None
        before = dict(os.environ)
        pool = new_pool(
            WorkerPlan(fakes.scripted, {"VNAS_TEST": "1"}, cpus, "a"),
            WorkerPlan(fakes.scripted, {"VNAS_TEST": "2"}, None, "b"),
        )
        jobs = [measuring(trial, "surroundings=VNAS_TEST") for trial in range(2)]
        for job in jobs:
            pool.submit(job)
        found = sorted((ended(pool) for _ in jobs), key=lambda event: event.job.trial)
        first, second = (event.attributes for event in found if isinstance(event, Answer))
        assert (first["variable"], second["variable"]) == ("1", "2")
        assert dict(os.environ) == before
        if cpus is not None:
            assert first["cpus"] == sorted(cpus)
            assert second["cpus"] == sorted(os.sched_getaffinity(0))

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a platform without CPU sets")
    def test_cpus_that_are_not_there(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.scripted, cpus=frozenset([4000]), name="cpu 4000"))
        with pytest.raises(DeviceError, match=r"on cpu 4000 is to run on the CPUs \[4000\], but .* only use \[0"):
            pool.submit(measuring(0, "nap=0"))

    def test_nothing_heavy_is_imported(self) -> None:
        code = "import sys, vnas.search.workers.pool; print(*sys.modules)"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"torch", "optuna", "pandas", "numpy"} & set(told.stdout.split())


class TestErrors:
    def test_a_candidate_that_cannot_be_measured(self, pool: ProcessPool) -> None:
        event = failed(pool, measuring(0, "noisy=12 %"))
        assert (event.reason, event.fault, event.traceback) == ("too noisy: 12 %", "candidate", None)
        assert answered(pool, measuring(1, "latency=1"))

    def test_an_unexpected_error(self, pool: ProcessPool) -> None:
        pid = answered(pool, measuring(0, "nap=0"))["pid"]
        event = failed(pool, measuring(1, "divide=0"))
        assert (event.reason, event.fault) == ("ZeroDivisionError: division by zero", "unexpected")
        assert event.traceback is not None
        assert "fake_evaluators.py" in event.traceback
        assert answered(pool, measuring(2, "divide=4")) == {"pid": pid, "share": 0.25}

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ("python", "out of memory"),
            ("torch", "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"),
            ("cpu", "out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ],
    )
    def test_memory(self, pool: ProcessPool, where: str, reason: str) -> None:
        event = failed(pool, measuring(0, f"crowd={where}"))
        assert (event.reason, event.fault) == (reason, "candidate")

    def test_an_answer_that_the_storage_could_not_keep(self, pool: ProcessPool) -> None:
        event = failed(pool, measuring(0, "unwritable"))
        assert event.fault == "unexpected"
        assert event.reason.startswith("TypeError: Object of type object is not JSON")

    def test_a_broken_device_context_ends_with_its_process(self, pool: ProcessPool) -> None:
        pid = answered(pool, measuring(0, "nap=0"))["pid"]
        assert failed(pool, measuring(1, "illegal")).fault == "unexpected"
        assert answered(pool, measuring(2, "nap=0"))["pid"] != pid


class TestDeaths:
    @pytest.mark.parametrize(
        ("deed", "how"),
        [
            ("signalled=9", "was killed by SIGKILL; the kernel's out-of-memory killer is the usual cause"),
            ("signalled=11", "was killed by SIGSEGV"),
            ("signalled=15", "was killed by SIGTERM"),
            ("exits=3", "ended with exit code 3"),
            ("vanishes=7", "ended with exit code 7"),
        ],
    )
    def test_in_a_job(self, pool: ProcessPool, deed: str, how: str) -> None:
        pid = answered(pool, measuring(0, "nap=0"))["pid"]
        event = failed(pool, measuring(1, deed))
        assert (event.reason, event.fault) == (f"the worker on cuda:1 (process {pid}) {how}", "worker")
        assert not pool.pids
        assert answered(pool, measuring(2, "nap=0"))["pid"] != pid

    def test_what_it_said_before_comes_first(self, pool: ProcessPool) -> None:
        job = training(0, "stumbles")
        pool.submit(job)
        assert happened(pool) == Advance(job, 0.5)
        event = happened(pool)
        assert isinstance(event, Failure)
        assert event.fault == "worker"

    def test_without_a_job(self, pool: ProcessPool) -> None:
        pid = answered(pool, measuring(0, "nap=0"))["pid"]
        os.kill(pool.pids[0], signal.SIGKILL)
        assert eventually(lambda: gone(pool.pids[0]))
        assert pool.wait(0.0) is None
        assert answered(pool, measuring(1, "nap=0"))["pid"] != pid

    def test_a_process_that_it_leaves_behind_hides_nothing_and_ends_too(
        self, pool: ProcessPool, tmp_path: Path
    ) -> None:
        event = failed(pool, measuring(0, f"bereaves={tmp_path / 'pid'}"))
        assert event.reason.endswith("ended with exit code 7")
        orphan = int((tmp_path / "pid").read_text())
        assert eventually(lambda: gone(orphan))

    def test_silence(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.scripted, name="cpu 0-1"), hang_seconds=2.0)
        event = failed(pool, measuring(0, "nap=600"))
        words = r"the worker on cpu 0-1 \(process (\d+)\) sent nothing for 2 s and was ended"
        found = re.fullmatch(words, event.reason)
        assert found is not None
        assert event.fault == "worker"
        assert gone(int(found[1]))

    def test_a_worker_that_hung_up(self, pool: ProcessPool) -> None:
        event = failed(pool, measuring(0, "hushes"))
        assert event.reason.endswith("closed its connection without ending, and was ended")

    def test_thirty_at_any_moment(self, new_pool: NewPool) -> None:
        plans = [WorkerPlan(fakes.scripted, name=f"cpu {number}") for number in range(2)]
        pool = new_pool(*plans)
        moments = random.Random(0)
        ends: Counter[int] = Counter()
        known: set[int] = set()
        kills = submitted = 0
        open_files = Path("/proc/self/fd")
        files = len(list(open_files.iterdir())) if open_files.exists() else None
        deadline = time.monotonic() + 2 * PATIENCE_SECONDS
        while kills < 30 or sum(ends.values()) < submitted:
            assert time.monotonic() < deadline
            while kills < 30 and submitted - sum(ends.values()) < pool.slots:
                pool.submit(measuring(submitted, f"nap={moments.uniform(0.0, 0.02)}", padding="x" * 3000))
                submitted += 1
            victims = sorted(known & set(pool.pids))
            if victims and kills < 30:
                time.sleep(moments.uniform(0.0, 0.03))
                with suppress(ProcessLookupError):  # an answer may come after its worker's end
                    os.kill(moments.choice(victims), signal.SIGKILL)
                    kills += 1
                known -= set(victims)
            event = pool.wait(1.0)
            if isinstance(event, Answer):
                known.add(event.attributes["pid"])
            if event is not None:
                ends[event.job.trial] += 1
        assert ends == Counter(range(submitted))
        pool.close()
        assert not multiprocessing.active_children()
        if files is not None:
            assert len(list(open_files.iterdir())) <= files + 1  # multiprocessing's own pipe to its resource tracker


class TestStarts:
    def test_an_error_of_vnas_is_raised_as_it_is(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.misconfigured))
        pool.submit(measuring(0, "nap=0"))
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"^training.epochs is 0; at least 1 is allowed$"):
                pool.wait(PATIENCE_SECONDS)
        with pytest.raises(ConfigError):
            pool.submit(measuring(1, "nap=0"))

    def test_an_error_of_vnas_from_elsewhere_keeps_its_words_and_exit_code(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.strange))
        pool.submit(measuring(0, "nap=0"))
        with pytest.raises(VnasError, match=r"^this and that$") as caught:
            pool.wait(PATIENCE_SECONDS)
        assert caught.value.exit_code == 7

    def test_any_other_error_is_put_in_words(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.unimportable, name="cuda:0"))
        pool.submit(measuring(0, "nap=0"))
        words = r"the worker on cuda:0 \(process \d+\) could not start: ImportError: no module named tensorrt\n"
        with pytest.raises(VnasError, match=words) as caught:
            pool.wait(PATIENCE_SECONDS)
        assert "fake_evaluators.py" in caught.value.__notes__[0]

    def test_three_deaths_are_enough(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.stillborn))
        pool.submit(measuring(0, "nap=0"))
        words = "ended with exit code 5 before it began its job, as the 2 before it did"
        with pytest.raises(VnasError, match=words):
            pool.wait(PATIENCE_SECONDS)
        assert not pool.pids

    def test_a_job_that_was_not_begun_goes_to_the_next_process(self, pool: ProcessPool) -> None:
        job = measuring(0, "nap=0")
        pool.submit(job)
        (starting,) = pool.pids
        os.kill(starting, signal.SIGKILL)
        event = ended(pool)
        assert isinstance(event, Answer)
        assert event.job is job
        assert event.attributes["pid"] != starting

    def test_what_others_have_done_is_told_before_the_error(self, new_pool: NewPool, tmp_path: Path) -> None:
        pool = new_pool(WorkerPlan(fakes.scripted), WorkerPlan(fakes.misconfigured))
        assert answered(pool, measuring(0, "nap=0"))
        pool.submit(measuring(1, f"awaits={tmp_path / 'now'}"))
        pool.submit(measuring(2, "nap=0"))
        (tmp_path / "now").touch()
        assert eventually(lambda: all(gone(pid) for pid in pool.pids))
        event = pool.wait(PATIENCE_SECONDS)
        assert isinstance(event, Failure)
        assert event.job.trial == 1
        with pytest.raises(ConfigError):
            pool.wait(PATIENCE_SECONDS)


class TestEnds:
    def test_idle_workers_end_by_themselves(self, new_pool: NewPool) -> None:
        pool = new_pool(WorkerPlan(fakes.scripted), WorkerPlan(fakes.scripted))
        for trial in range(2):
            pool.submit(measuring(trial, "nap=0.3"))
        pids = pool.pids
        assert len(pids) == 2
        assert all(isinstance(ended(pool), Answer) for _ in pids)
        begun = time.monotonic()
        pool.close()
        pool.close()
        assert time.monotonic() - begun < PATIENCE_SECONDS
        assert all(gone(pid) for pid in pids)
        with pytest.raises(RuntimeError, match="closed"):
            pool.submit(measuring(2, "nap=0"))

    def test_busy_ones_are_ended_with_what_they_started(self, tmp_path: Path) -> None:
        with ProcessPool([WorkerPlan(fakes.scripted)], None) as pool:
            pool.submit(training(0, f"breeds={tmp_path / 'pids'}"))
            assert isinstance(happened(pool), Advance)
        assert not pool.pids
        assert not multiprocessing.active_children()
        worker, its_child = map(int, (tmp_path / "pids").read_text().split())
        assert eventually(lambda: gone(worker) and gone(its_child))

    def test_an_unused_pool(self) -> None:
        ProcessPool([WorkerPlan(fakes.scripted)], None).close()
        with pytest.raises(ValueError, match="one plan"):
            ProcessPool([], None)


DRIVER = """
import sys
sys.path.insert(0, {folder!r})
import time
from fake_evaluators import measuring, scripted, training
from vnas.search.workers.pool import ProcessPool, WorkerPlan

def say(text):
    print(text, flush=True)

def main():
    pool = ProcessPool([WorkerPlan(scripted)], None)
    {deeds}

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """``drive(deeds)``: a driver of its own, the leader of a group as a shell's job is."""
    drivers: list[subprocess.Popen[str]] = []

    def start(deeds: str) -> "subprocess.Popen[str]":
        script = tmp_path / "driver.py"
        text = DRIVER.replace("{folder!r}", repr(str(Path(fakes.__file__).parent)))
        script.write_text(text.replace("{deeds}", deeds.replace("\n", "\n    ")))
        command = [sys.executable, str(script)]
        pipe = subprocess.PIPE
        drivers.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


class TestDrivers:
    def test_workers_end_with_a_driver_that_is_killed(
        self, drive: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path
    ) -> None:
        pids = tmp_path / "pids"
        driver = drive(
            f"pool.submit(training(0, 'breeds={pids}'))\nassert pool.wait(60) is not None\nsay('busy')\ntime.sleep(600)"
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "busy\n"
        worker, its_child = map(int, pids.read_text().split())
        assert not gone(worker)
        driver.kill()
        assert eventually(lambda: gone(worker) and gone(its_child))
        assert driver.communicate()[1] == ""

    def test_ctrl_c_is_the_drivers_to_act_on(self, drive: Callable[[str], "subprocess.Popen[str]"]) -> None:
        driver = drive(
            "try:\n    pool.submit(measuring(0, 'nap=1'))\n    say('begun')\n    time.sleep(600)\n"
            "except KeyboardInterrupt:\n    before = pool.pids\n    say(before == [pool.wait(60).attributes['pid']])"
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "begun\n"
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.communicate(timeout=PATIENCE_SECONDS) == ("True\n", "")
        assert driver.returncode == 0

    def test_a_driver_that_forgets_to_close_ends(self, drive: Callable[[str], "subprocess.Popen[str]"]) -> None:
        driver = drive("sys.kept = pool\npool.submit(measuring(0, 'nap=600'))\nraise SystemExit(4)")
        assert driver.communicate(timeout=PATIENCE_SECONDS) == ("", "")
        assert driver.returncode == 4


class TestChannel:
    def test_half_a_message_waits_for_the_other_half(self) -> None:
        ours, theirs = socket.socketpair()
        driver, frame = DriverEnd(ours), packed(Ready())
        theirs.sendall(frame + frame[:7])
        assert driver.receive() == [Ready()]
        assert driver.receive() == []
        theirs.sendall(frame[7:])
        assert driver.receive() == [Ready()]
        theirs.sendall(frame[:7])
        theirs.close()
        assert driver.receive() == []
        assert driver.ended
        driver.close()

    def test_a_worker_that_does_not_listen_blocks_nobody(self, pool: ProcessPool) -> None:
        answered(pool, measuring(0, "nap=0"))
        os.kill(pool.pids[0], signal.SIGSTOP)
        job = measuring(1, "latency=1", weights="x" * 5_000_000)
        pool.submit(job)
        assert pool.wait(0.2) is None
        os.kill(pool.pids[0], signal.SIGCONT)
        event = ended(pool)
        assert isinstance(event, Answer)
        assert event.job is job

    def test_a_worker_whose_driver_is_gone_leaves_without_a_word(self) -> None:
        ours, theirs = socket.socketpair()
        left: list[str] = []
        worker = WorkerEnd(theirs, lambda: left.append("now"))
        ours.close()
        worker.send(Ready())
        assert left == ["now"]
        assert worker.receive() is None
        worker.close()
