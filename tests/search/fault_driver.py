"""A driver to be killed: the engine over candidates that only sleep; without torch, unless the study is shared.

``python tests/search/fault_driver.py`` reads one command a line, so that optuna is imported once and a driver's start
costs a fork:

    {"start": [ARGUMENT, ...], "log": FILE}  ->  process id of a driver that writes to FILE
    {"wait": PID}                            ->  how it ended, as ``subprocess`` has it

Every training appends two lines to the journal, ``begun`` and ``ended``, with candidate and rung. No trial can be made
up or forgotten there: it is written by the one that does the work.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnas.search.engine.protocol import Subject

RUNGS = (1.0, 2.0)
CHOICES = {"width": tuple(range(8, 88, 8)), "depth": tuple(range(1, 9))}
STUDY = "faults"


class SleepingProblem:
    """Eighty candidates, every draw another."""

    choices = CHOICES
    size = 80
    rungs = RUNGS
    latency_attributes = ("latency_ms",)

    def subject(self, draw: Any) -> Subject:
        digest = hashlib.sha256(json.dumps(dict(draw), sort_keys=True).encode()).hexdigest()[:12]
        names = {"digest": digest, "candidate": digest, "description": f"{draw['width']}x{draw['depth']}"}
        return Subject(digest, digest, {**names, **draw})

    def absent(self, draw: Any) -> tuple[str, ...]:
        return ()

    def latency_key(self, attributes: Any) -> str | None:
        return attributes.get("digest")


@dataclass(frozen=True)
class SleepingEvaluator:
    """Sleeps ``seconds`` a job; the answer follows from the candidate alone."""

    journal: str
    seconds: float

    def __call__(self) -> SleepingEvaluator:
        return self

    def measure(self, subject: Subject) -> dict[str, Any]:
        time.sleep(self.seconds / 4)
        return {"latency_ms": 0.1 * subject.attributes["width"] * subject.attributes["depth"] / 8}

    def train(self, subject: Subject, rung: int, progress: Callable[[float], None]) -> dict[str, Any]:
        self._note("begun", subject.digest, rung)
        time.sleep(self.seconds / 2)
        progress(0.5)
        time.sleep(self.seconds / 2)
        self._note("ended", subject.digest, rung)
        return {"val_top1": accuracy(subject.digest, rung), "epochs": RUNGS[rung], "epochs_spent": 1.0}

    def _note(self, what: str, digest: str, rung: int) -> None:
        descriptor = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{what} {digest} {rung} {os.getpid()}\n".encode())
        os.close(descriptor)


def accuracy(digest: str, rung: int) -> float:
    """In percent, by the candidate's digest."""
    return 40.0 + int(digest[:4], 16) / 65536 * 40 + rung


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--journal", required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heartbeat", type=int)
    parser.add_argument("--retries", type=int, default=30)
    parser.add_argument("--recover-at", type=float, help="recover at this time.time() and do nothing else")
    return parser


def drive(words: list[str]) -> int:
    """Run a study to its end."""
    import optuna

    from vnas.search.engine.driver import Driver
    from vnas.search.engine.inline import InlineExecutor
    from vnas.search.engine.ledger import Ledger
    from vnas.search.engine.recovery import recover
    from vnas.search.engine.reporting import Silent
    from vnas.search.engine.rules import Rules
    from vnas.search.policy.promotion import Limits
    from vnas.search.workers.pool import ProcessPool, WorkerPlan

    args = arguments().parse_args(words)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    shared = args.heartbeat is not None
    if shared:
        from vnas.search import store  # imports torch

        store.HEARTBEAT_SECONDS = args.heartbeat
        storage = store.open_storage(args.url)
    else:
        storage = optuna.storages.RDBStorage(args.url)
    study = optuna.create_study(
        storage=storage, study_name=STUDY, directions=["maximize", "minimize"], load_if_exists=True
    )
    limits = Limits(candidates=args.trials, epochs=None, seconds=None, spend=1 / 3)
    rules = Rules("random", limits, seed=args.seed, retries=args.retries)
    problem = SleepingProblem()
    ledger = Ledger(study, CHOICES, f"driver/{os.getpid()}")
    if args.recover_at is not None:
        ledger.trials()  # so that the connection is there
        time.sleep(max(0.0, args.recover_at - time.time()))
        ledger.fail_stale()
        print("recovered", recover(ledger, rules, len(RUNGS)), flush=True)
        return 0

    class Telling(Silent):
        def trial_finished(self, line: Any, done: int, total: int) -> None:
            print(f"trial {line.number} {line.state} {done}/{total} {line.note}", flush=True)

    driver = Driver(problem, ledger, rules, Telling(), shared=shared)
    found = driver.recover()
    print(f"began with {driver.book.counted} candidates: {found}", flush=True)
    evaluator = SleepingEvaluator(args.journal, args.seconds)
    if args.workers == 0:
        driver.run(InlineExecutor(evaluator, lambda trial, share: None))
    else:
        plans = [WorkerPlan(evaluator, name=f"cpu, worker {number}") for number in range(1, args.workers + 1)]
        with ProcessPool(plans, hang_seconds=60.0) as pool:
            driver.run(pool)
    print(f"ended with {driver.book.counted} candidates", flush=True)
    return 0


class Drivers:
    """Starts drivers, kills them and whatever they started."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder = folder
        self._started: dict[int, Path] = {}
        self._alive: set[int] = set()
        self._server = subprocess.Popen(
            [sys.executable, __file__, *(["shared"] if shared else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, *words: object) -> int:
        """A driver's process id."""
        log = self._folder / f"driver-{len(self._started)}.log"
        pid = int(self._say({"start": list(map(str, words)), "log": str(log)}))
        self._started[pid] = log
        self._alive.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Its exit code, negative for a signal, once it has ended."""
        code = int(self._say({"wait": pid}))
        self._alive.discard(pid)
        return code

    def kill(self, pid: int) -> None:
        """Kill a driver, and wait until its workers have noticed: they end by themselves."""
        left = workers_of(pid)
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while any(is_alive(worker) for worker in left):
            assert time.monotonic() < deadline, f"workers {left} outlive their driver"
            time.sleep(0.01)

    def log(self, pid: int) -> str:
        """All it wrote."""
        return self._started[pid].read_text(errors="replace")

    def close(self) -> None:
        """End those that are alive, too."""
        for pid in list(self._alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def _say(self, command: dict[str, Any]) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def workers_of(pid: int) -> list[int]:
    """The worker processes of a driver."""
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    for child in children:
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def _forked(words: list[str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        for descriptor, target in ((0, os.devnull), (1, log), (2, log)):
            os.dup2(os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644), descriptor)
        from vnas.search.interrupts import installed

        with installed():
            code = drive(words)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001  the process ends here, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Start drivers until there are no more commands."""
    sys.path.insert(0, str(Path(__file__).parent))
    for name in ("optuna", "vnas.search.engine.driver", "vnas.search.workers.pool"):
        importlib.import_module(name)
    if "shared" in sys.argv:
        importlib.import_module("vnas.search.store")
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            print(_forked(command["start"], command["log"]), flush=True)
        else:
            _, status = os.waitpid(command["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
