"""The parent against a worker that measures nothing (fake_worker.py), then one real worker of each kind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_profiler_measurement import RESULT

import vnas.profiler.spawn as spawn
from vnas.errors import DeviceError, DeviceMemoryError, MeasurementError, NonFiniteLossError, UsageError
from vnas.profiler.measurement import Measurement
from vnas.profiler.plan import Cell, Plan, Rules
from vnas.profiler.protocol import Progress
from vnas.profiler.replication import APART_NOTE, MEMORY_NOTE, Standing, replicate
from vnas.profiler.spawn import how_it_ended, worker_environment
from vnas.profiler.wire import Outcome, outcome_line, parse, progress_line

FAKE = Path(__file__).with_name("fake_worker.py")


class Fake:
    """Runs ``replicate`` with the fake worker, and remembers each worker's plan."""

    def __init__(self, folder: Path, result: Measurement = RESULT) -> None:
        self._log, self._template, self._result = folder / "fake.log", folder / "fake.template", result
        self.command = (sys.executable, "-S", str(FAKE), str(self._log), str(self._template))
        self.answer()

    def answer(self, **changes: Any) -> None:
        """From now on with these fields."""
        self._template.write_text(json.dumps(dataclasses.replace(self._result, **changes).to_dict()))

    def __call__(self, *nets: str | Cell, processes: int = 3, **more: Any) -> list[Outcome]:
        cells = [net if isinstance(net, Cell) else Cell(net) for net in nets]
        return replicate(cells, "cpu", processes=processes, command=self.command, **more)

    @property
    def plans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    @property
    def slept(self) -> bool:
        """Whether one of its processes came to the end of its sleep instead of being ended in it."""
        return self._log.with_suffix(".slept").exists()

    @property
    def asked(self) -> list[tuple[int, list[str]]]:
        return [(plan["process"], [cell["net"] for cell in plan["cells"]]) for plan in self.plans]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(spawn, "LOOK_SECONDS", 0.05)
    return Fake(tmp_path)


def measured(outcome: Outcome) -> Measurement:
    assert isinstance(outcome, Measurement), outcome
    return outcome


def failed(outcome: Outcome) -> str:
    assert isinstance(outcome, MeasurementError), outcome
    return str(outcome)


def test_every_process_measures_all_nets_and_their_samples_are_merged(fake: Fake) -> None:
    rules = Rules(0.02, min_samples=50, min_seconds=0.75, max_seconds=3.0, energy_seconds=5.0, threads=1)
    first, second = map(measured, fake("2.0", "3.0", rules=rules, seed=7))
    assert fake.asked == [(0, ["2.0", "3.0"]), (1, ["2.0", "3.0"]), (2, ["2.0", "3.0"])]
    assert (first.median_ms, second.median_ms) == (2.0, 3.0)
    assert (first.processes, first.n, first.interval_method) == (3, 120, "between processes")
    assert {plan["seed"] for plan in fake.plans} == {7}
    told = fake.plans[0]["rules"]
    assert (told["min_samples"], told["min_seconds"], told["max_seconds"], told["threads"]) == (17, 0.25, 1.0, 1)
    assert told["target_relative"] == pytest.approx(0.02 * 3**0.5)


def test_the_target_is_that_of_all_processes_together(fake: Fake) -> None:
    assert measured(fake("2.0", rules=Rules(0.02))[0]).target_relative == 0.02


def test_energy_is_measured_once(fake: Fake) -> None:
    fake("2.0;die=9@0", processes=3, rules=Rules(energy_seconds=2.0))
    assert [plan["rules"]["energy_seconds"] for plan in fake.plans] == [2.0, 2.0, 0.0]


def test_a_process_knows_the_quietest_pace_of_those_before(fake: Fake) -> None:
    fake("2.0")
    assert [plan["quiet_us"] for plan in fake.plans] == [None, 5.0, 4.0]


def test_one_runtime_a_process_in_an_order_drawn_anew(fake: Fake) -> None:
    cells = [Cell("2.0", runtime=runtime) for runtime in ("eager", "onnxruntime", "openvino", "eager")]
    outcomes = fake(*cells, processes=4, seed=1)
    told = [tuple(cell["runtime"] for cell in plan["cells"]) for plan in fake.plans]
    orders = [told[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(order) == [("eager", "eager"), ("onnxruntime",), ("openvino",)] for order in orders)
    assert len(set(map(tuple, orders))) > 1
    assert [measured(outcome).processes for outcome in outcomes] == [4] * 4
    assert len({plan["pid"] for plan in fake.plans}) == 12


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_order(fake: Fake, seed: int) -> None:
    cells = [Cell("2.0", runtime=runtime) for runtime in "abcdefgh"]
    fake(*cells, processes=1, seed=seed)
    fake(*cells, processes=1, seed=seed)
    first, second = fake.asked[:8], fake.asked[8:]
    assert first == second


def test_a_process_that_dies_is_told_of_and_the_others_count(fake: Fake) -> None:
    result = measured(fake("2.0;die=11@1")[0])
    assert result.processes == 2
    assert result.notes[-1] == "1 of 3 processes failed: process 2 (eager) died of SIGSEGV; the last it said:"


def test_where_all_die_the_error_has_their_last_words(fake: Fake) -> None:
    text = failed(fake("2.0;die=9", processes=2)[0])
    assert text.startswith("process 1 (eager) died of SIGKILL (the system does that where memory runs out); the last")
    lines = text.splitlines()
    assert lines[1:] == [f"  chatter {number}" for number in range(10, 30)]
    assert len(fake.plans) == 2


def test_a_net_that_kills_its_worker_takes_no_other_with_it(fake: Fake) -> None:
    good, bad, other = fake("2.0", "3.0;die=6", "4.0", processes=2)
    assert measured(good).processes == measured(other).processes == 2
    assert measured(good).notes[-1] == APART_NOTE
    assert "died of SIGABRT" in failed(bad)
    everybody = ["2.0", "3.0;die=6", "4.0"]
    assert fake.asked[:4] == [(0, everybody), *((0, [net]) for net in everybody)]
    assert sorted(fake.asked[4:]) == [(1, [net]) for net in everybody]  # apart from the start


def test_nets_that_only_fit_one_by_one_are_measured_one_by_one(fake: Fake) -> None:
    assert [measured(outcome).processes for outcome in fake("2.0;alone", "3.0", processes=2)] == [2, 2]


def test_nets_that_only_fit_into_memory_one_by_one_are_measured_one_by_one(fake: Fake) -> None:
    rules = Rules(energy_seconds=2.0)
    large, small, bad = fake("2.0;crowded", "3.0", "4.0;error=UsageError", processes=2, rules=rules)
    assert [measured(outcome).processes for outcome in (large, small)] == [2, 2]
    assert measured(large).notes[-1] == measured(small).notes[-1] == MEMORY_NOTE
    assert isinstance(bad, UsageError)
    everybody = ["2.0;crowded", "3.0", "4.0;error=UsageError"]
    assert fake.asked[:3] == [(0, everybody), (0, ["2.0;crowded"]), (0, ["3.0"])]
    assert sorted(fake.asked[3:]) == [(1, ["2.0;crowded"]), (1, ["3.0"])]  # apart from the start
    assert [plan["rules"]["energy_seconds"] for plan in fake.plans] == [2.0, 2.0, 2.0, 0.0, 0.0]


def test_a_net_that_does_not_fit_alone_is_refused_and_takes_no_other_with_it(fake: Fake) -> None:
    large, small = fake("2.0;error=DeviceMemoryError", "3.0", processes=3)
    assert isinstance(large, DeviceMemoryError)
    assert measured(small).processes == 3
    assert [len(nets) for _, nets in fake.asked] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "phase"),
    [("greedy", "check: the callable raised"), ("huge", "profiler_callables:huge raised RuntimeError")],
)
def test_a_worker_tells_memory_that_ran_out_from_other_errors(name: str, phase: str) -> None:
    from vnas.profiler.worker import measure_plan

    cells = (Cell(f"profiler_callables:{name}", 16), Cell("profiler_callables:wrong_channels", 16))
    rules = Rules(max_seconds=0.1, min_seconds=0.0, max_warmup_seconds=0.0)
    ran_out, wrong = measure_plan(Plan(cells, rules, device="cpu"), lambda progress: None)
    assert isinstance(ran_out, DeviceMemoryError)
    assert str(ran_out).startswith(phase)
    assert type(wrong) is MeasurementError
    assert type(parse(outcome_line(0, ran_out))[1]) is DeviceMemoryError  # type: ignore[index]


def test_memory_that_ran_out_in_the_words_of_each_library() -> None:
    from vnas.profiler.runtimes.failures import memory_ran_out

    said = (
        "CUDA out of memory. Tried to allocate 20.00 MiB.",
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "Failed to allocate memory for requested buffer of size 134217728",
    )
    for text in said:
        outer = MeasurementError("load: it failed")
        outer.__cause__ = RuntimeError(text)
        assert memory_ran_out(outer)
    assert memory_ran_out(MemoryError())
    assert not memory_ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_worker_that_cannot_start_is_not_the_fault_of_a_net(fake: Fake) -> None:
    outcomes = fake("2.0;silent=3", "3.0", processes=2)
    assert all("process 1 (eager) ended with exit code 3" in failed(outcome) for outcome in outcomes)
    assert len(fake.plans) == 2


def test_a_worker_whose_child_holds_its_output_is_seen_to_have_died(fake: Fake) -> None:
    assert "ended with exit code 4" in failed(fake("2.0;orphan=4", processes=1)[0])
    assert not fake.slept  # the child was not waited for


def test_a_worker_that_has_answered_may_not_linger(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "PATIENCE_SECONDS", 0.05)
    assert measured(fake("2.0;linger", processes=1)[0]).processes == 1
    assert not fake.slept
    assert not alive(fake.plans[0]["pid"])


def test_one_process_alone_is_held_against_the_target_of_all(fake: Fake) -> None:
    fake.answer(noise_ok=True)  # its interval is a tenth of its median
    for target, met in ((0.2, True), (0.09, False)):
        result = measured(fake("2.0;die=9@0;die=9@1", rules=Rules(target))[0])
        assert (result.processes, result.noise_ok) == (1, met)


def test_a_command_that_does_not_take_its_plan() -> None:
    (outcome,) = replicate([Cell("x" * 1_000_000)], "cpu", processes=1, command=(sys.executable, "-S", "-c", ""))
    assert "ended with exit code 0 before it had measured" in failed(outcome)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("hello", "gave an answer that cannot be read: not JSON"),
        ("[]", "neither progress, a measurement nor an error"),
        ('{"cell": 0}', "neither progress, a measurement nor an error"),
        ('{"cell": 0, "measurement": {"schema": 3}}', "measurement has schema 3"),
        ('{"cell": 5, "error": "UsageError", "message": "m"}', "there is no cell 5"),
        ('{"progress": {"phase": 1}}', "progress lacks"),
    ],
)
def test_nonsense_is_no_result(fake: Fake, answer: str, message: str) -> None:
    assert message in failed(fake(f"2.0;babble={answer}", processes=1)[0])


def test_a_net_that_is_refused_at_first_is_not_tried_again(fake: Fake) -> None:
    good, bad = fake("2.0", "3.0;error=UsageError")
    assert measured(good).processes == 3
    assert isinstance(bad, UsageError)
    assert str(bad) == "3.0;error=UsageError in process 0"
    assert fake.asked == [(0, ["2.0", "3.0;error=UsageError"]), (1, ["2.0"]), (2, ["2.0"])]


def test_a_worker_is_not_started_for_nets_that_are_refused(fake: Fake) -> None:
    fake("3.0;error=UsageError")
    assert len(fake.plans) == 1


def test_a_net_that_fails_later_keeps_what_it_has(fake: Fake) -> None:
    result = measured(fake("3.0;error=MeasurementError@1")[0])
    assert result.processes == 2
    assert result.notes[-1] == "1 of 3 processes failed: 3.0;error=MeasurementError@1 in process 1"


def test_what_is_finished_is_handed_over_after_every_worker(fake: Fake) -> None:
    seen: list[list[tuple[int | None, bool]]] = []

    def take(standings: Sequence[Standing]) -> None:
        seen.append([(getattr(one.outcome, "processes", None), one.complete) for one in standings])

    fake(Cell("2.0"), Cell("3.0;error=UsageError"), processes=2, on_parts=take)
    assert seen == [[(1, False), (None, True)], [(2, True), (None, True)]]


def test_progress_comes_with_its_process(fake: Fake) -> None:
    seen: list[tuple[int, Progress]] = []
    fake("2.0;tell", processes=2, progress=lambda process, where: seen.append((process, where)))
    assert seen == [(process, Progress("check", 3, 0.5, 1.0, 0.1, "2.0;tell")) for process in (0, 1)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(seen: Callable[[], bool]) -> None:
    """Long enough that no busy machine fails a test, and not for ever, so that a broken worker does."""
    for _ in range(30_000):
        if seen():
            return
        time.sleep(0.01)
    pytest.fail("nothing happened in 300 s")


def test_an_interrupt_ends_the_worker_and_keeps_what_is_done(fake: Fake) -> None:
    kept: list[Standing] = []

    def interrupt() -> None:
        wait_until(lambda: len(fake.plans) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        fake("2.0;hang@1", on_parts=lambda standings: kept.__setitem__(slice(None), standings))
    assert measured(kept[0].outcome).processes == 1  # type: ignore[arg-type]
    assert not kept[0].complete
    assert not alive(fake.plans[1]["pid"])


def test_a_real_worker_ends_with_its_parent() -> None:
    code = (
        "import subprocess, sys, time\n"
        "from vnas.profiler.spawn import COMMAND\n"
        # Its output goes nowhere, so that a broken pipe cannot be what ends it.
        "child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)\n"
        f"child.stdin.write({PLAN_FOR_LONG!r}.encode() + b'\\n'); child.stdin.flush()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=worker_environment(os.environ, sys.path, None)
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        child = int(out.readline())
        assert alive(child)
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(child))


PLAN_FOR_LONG = json.dumps(
    dataclasses.asdict(Plan((Cell("profiler_callables:sleeping"),), Rules(max_seconds=60.0), device="cpu"))
)


def test_real_workers_measure_and_keep_library_chatter_apart() -> None:
    rules = Rules(0.5, min_samples=6, min_seconds=0.0, max_seconds=0.2, max_warmup_seconds=0.1, threads=1)
    here = "profiler_callables"
    names = ("chatty", "wrong_channels", "module", "failing", "number")
    cells = [Cell(f"{here}:{name}", 16, 2) for name in names]
    chatty, wrong, module, failing, number = replicate(cells, "cpu", processes=2, rules=rules, seed=3)
    for result in map(measured, (chatty, module)):
        assert result.processes == 2
        assert {block.process for block in result.blocks} == {0, 1}
        assert result.input_shapes == ((2, 3, 16, 16),)
        assert result.environment.threads == 1
    assert "check: the callable raised RuntimeError" in failed(wrong)
    assert isinstance(failing, UsageError)
    assert "failing raised FileNotFoundError: weights.bin" in str(failing)
    assert "returned a int; it must return something that can be called" in str(number)


def test_a_device_that_is_not_there_is_that_error_for_every_net() -> None:
    from vnas.profiler.worker import measure_plan

    plan = Plan((Cell("timm:resnet18"), Cell("timm:resnet34")), Rules(), device="cuda:63")
    outcomes = measure_plan(plan, lambda progress: None)
    assert [type(outcome) for outcome in outcomes] == [DeviceError, DeviceError]


def test_the_allocator_of_a_worker_keeps_its_memory_unless_the_user_chose() -> None:
    own = {"MALLOC_TRIM_THRESHOLD_": "1", "A": "own", "PYTHONPATH": "/elsewhere"}
    made = worker_environment(own, ["", "/x", "/x"], "glibc 2.36")
    assert (made["MALLOC_TRIM_THRESHOLD_"], made["MALLOC_MMAP_THRESHOLD_"]) == ("1", "1073741824")
    assert made["A"] == "own"
    assert made["PYTHONPATH"] == os.pathsep.join([str(Path.cwd()), "/x"])


def test_the_environment_reaches_the_workers(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    fake("2.0", processes=1)
    assert fake.plans[0]["malloc"] == "5"


def test_an_end_in_words() -> None:
    assert how_it_ended(3) == "ended with exit code 3 before it had measured"
    assert how_it_ended(-signal.SIGTERM) == "died of SIGTERM"
    assert how_it_ended(-250) == "died of signal 250"


@pytest.mark.parametrize("error", [UsageError("a\nb"), DeviceError("none"), MeasurementError("ü")])
def test_an_error_comes_back_as_what_it_was(error: Exception) -> None:
    said = parse(outcome_line(2, error))  # type: ignore[arg-type]
    assert isinstance(said, tuple)
    assert (said[0], type(said[1]), str(said[1])) == (2, type(error), str(error))


def test_an_error_of_an_odd_class_is_one_of_measuring() -> None:
    said = parse(outcome_line(0, NonFiniteLossError(1.0, 2, 3)))
    assert isinstance(said, tuple)
    assert type(said[1]) is MeasurementError
    assert isinstance(parse('{"cell": 0, "error": "Path", "message": "m"}')[1], MeasurementError)  # type: ignore[index]


def test_a_measurement_and_progress_come_back_as_they_were() -> None:
    assert parse(outcome_line(1, RESULT)) == (1, RESULT)
    for progress in (Progress("sample", 60, 0.5, 12.3, 0.02, "net"), Progress("wait", waiting="for whom")):
        assert parse(progress_line(progress)) == progress


def test_progress_is_told_seldom() -> None:
    from vnas.profiler.worker import _seldom

    now = iter([0.0, 0.0, 0.3, 0.5, 0.5, 0.9, 0.9])
    told: list[Progress] = []
    report = _seldom(told.append, lambda: next(now))
    for samples in range(4):
        report(Progress("sample", samples))
    assert [progress.samples for progress in told] == [0, 2]
    report(Progress("wait", waiting="the CPU is taken; waiting"))  # not due, and told all the same
    assert told[-1].waiting == "the CPU is taken; waiting"
