"""``measure``: the latency of any callable on any device. ``measure_all``: of several, in shuffled rounds."""

from __future__ import annotations

import functools
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from vnas.errors import VnasError
from vnas.profiler import rapl, runtimes
from vnas.profiler.cpu_load import CpuLoad
from vnas.profiler.cuda import cuda_instruments
from vnas.profiler.devices import check_places, cuda_uuid, resolve_device
from vnas.profiler.environment import Environment, capture_environment
from vnas.profiler.lock import device_lock, lock_key
from vnas.profiler.measurement import Measurement
from vnas.profiler.pace import HandoffPace
from vnas.profiler.pace_record import known_quiet_us, record_path, remember
from vnas.profiler.phases import StoppingRule, WarmUpRule
from vnas.profiler.plan import Rules
from vnas.profiler.protocol import Findings, Instruments, Progress, Report, Run
from vnas.profiler.runtimes import Prepared
from vnas.profiler.telemetry import Snapshot
from vnas.profiler.timers import Call, CpuTimer, Timer

__all__ = ["Job", "Progress", "measure", "measure_all"]

PROCESS_NOTE = "one process: a fresh process may differ by more than the interval says"


@dataclass(frozen=True)
class Job:
    """What is measured: ``callable(*inputs)``, run by a runtime in a precision.

    Attributes:
        name: what progress is told under.
        callable: a module in eval mode, or anything else that can be called. It does its work on the device.
        inputs: its positional arguments; tensors among them are on the device.
        runtime: how it is run, of ``runtimes.RUNTIMES``.
        precision: of ``runtimes.PRECISIONS``; None leaves it as it is.
    """

    name: str
    callable: Callable[..., object]
    inputs: tuple[object, ...] = ()
    runtime: str = "eager"
    precision: str | None = None


def measure(
    callable: Callable[..., object],
    /,
    *inputs: object,
    device: str | torch.device = "cpu",
    runtime: str = "eager",
    precision: str | None = None,
    target_relative: float = 0.01,
    min_samples: int = 50,
    min_seconds: float = 0.5,
    max_seconds: float = 15.0,
    max_warmup_seconds: float = 3.0,
    energy_seconds: float = 0.0,
    timer: Timer | None = None,
    threads: int | None = None,
    progress: Report | None = None,
) -> Measurement:
    """Measure ``callable(*inputs)`` under ``torch.inference_mode``, in this process, alone on the device.

    On a GPU the samples are times between two CUDA events around the eager call; the host's end-to-end and enqueue
    times and the replay of a CUDA graph come with them. On the CPU they are ``perf_counter_ns``. Caches are as the
    last call left them (warm), and calls follow each other without pauses. While other processes of this project
    use the device, it waits for them (``lock``).

    Args:
        callable: a module in eval mode, or anything else that can be called. It does its work on ``device``.
        inputs: its positional arguments; tensors among them are on ``device``.
        device: ``cpu``, ``cuda:0`` or a torch.device.
        runtime: how the callable is run; ``vnas.profiler.runtimes.RUNTIMES`` has them all.
        precision: ``fp32``, ``tf32``, ``fp16`` or ``bf16``; by default as the callable is.
        target_relative: stop when the interval of the median is narrower than this share of it.
        min_samples: samples at least.
        min_seconds: seconds of sampling at least.
        max_seconds: time limit of sampling; each of the three other timers of a GPU adds at most a fifth of it.
        max_warmup_seconds: cap of the warm-up.
        energy_seconds: window over which energy is measured, at least 1; 0 leaves energy out, as a note says.
        timer: replaces the device's own, and then gives the only number.
        threads: torch threads while measuring, restored afterwards; by default those that are set.
        progress: told about each phase, every half second while sampling, and whom it waits for; without it the
            logger ``vnas.profiler`` is told of waiting.

    Returns:
        Measurement, in milliseconds.

    Raises:
        MeasurementError: the callable raised (the original is the cause), an input or a parameter is on another
            device, or a sample is not a positive number.
        DeviceError: there is no such device.
        UsageError: a number that is not allowed, or an unknown runtime or precision.
        MissingExtraError: the runtime's package is not installed.
    """
    rules = Rules(target_relative, min_samples, min_seconds, max_seconds, max_warmup_seconds, energy_seconds, threads)
    job = Job("", callable, inputs, runtime, precision)
    (found,) = measure_all([job], device=device, rules=rules, timer=timer, progress=progress)
    if isinstance(found, VnasError):
        raise found
    return found


def measure_all(
    jobs: Sequence[Job],
    *,
    device: str | torch.device,
    rules: Rules,
    timer: Timer | None = None,
    process: int = 0,
    seed: int = 0,
    quiet_us: float | None = None,
    progress: Report | None = None,
) -> list[Measurement | VnasError]:
    """Measure several callables in this process: all are warmed up, then take turns in shuffled rounds.

    Args:
        jobs: what is measured; all of them are in memory at once.
        device: ``cpu``, ``cuda:0`` or a torch.device.
        rules: when each of them is done.
        timer: replaces the device's own.
        process: number of this process among those that measure the same.
        seed: of the order in the rounds.
        quiet_us: pace of the undisturbed machine, where another process has seen it.
        progress: told about each phase, and every half second while sampling.

    Returns:
        One for each job, in their order: its Measurement, or the error that ended it.

    Raises:
        DeviceError: there is no such device.
        UsageError: a number that is not allowed.
    """
    rule = StoppingRule(
        rules.target_relative,
        rules.min_samples,
        rules.min_seconds,
        rules.max_seconds,
        max(100_000, rules.min_samples),
    )
    place = resolve_device(device=device)
    told = progress
    waiting = None if told is None else lambda line: told(Progress("wait", waiting=line))
    with device_lock(lock_key(place), on_wait=waiting) as held, _settings(place, rules.threads), ExitStack() as stack:
        pace = None
        # One thread hands nothing over, and does not notice the states that the pace tells of.
        if place.type == "cpu" and timer is None and torch.get_num_threads() > 1:
            record = record_path(torch.get_num_threads())
            known = [one for one in (quiet_us, known_quiet_us(record)) if one is not None]
            pace = HandoffPace(min(known, default=None))
            stack.callback(_remember, record, pace)
        bench = _Bench(place, timer, pace, rule, rules, process, progress, stack)
        seats = [bench.seat(job) for job in jobs]
        _rounds([seat for seat in seats if seat.error is None], random.Random(f"{seed}/{process}"))
        notes = (held.note,) if held.note is not None else ()
        return [bench.result(seat, notes) for seat in seats]


def _remember(record: Path | None, pace: HandoffPace) -> None:
    remember(record, pace.seen_us)


def _rounds(seats: list[_Seat], order: random.Random) -> None:
    """Turns until every one is done: shuffled anew in each round, so that drift hits all alike."""
    last: _Seat | None = None
    while seats := [seat for seat in seats if seat.error is None and seat.run is not None and not seat.run.done]:
        order.shuffle(seats)
        for seat in seats:
            seat.attempt(lambda run, after: run.turn(after_another=after), last is not seat)
            last = seat


class _Seat:
    """One job on the bench, and what became of it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.prepared: Prepared | None = None
        self.run: Run | None = None
        self.error: VnasError | None = None

    def attempt(self, step: Callable[[Run, bool], None], after_another: bool = False) -> None:
        assert self.run is not None
        try:
            step(self.run, after_another)
        except VnasError as error:
            self.error = error


class _Bench:
    """What all jobs of a call have in common."""

    def __init__(
        self,
        place: torch.device,
        timer: Timer | None,
        pace: HandoffPace | None,
        rule: StoppingRule,
        rules: Rules,
        process: int,
        progress: Report | None,
        stack: ExitStack,
    ) -> None:
        self._place, self._timer, self._pace = place, timer, pace
        self._rule, self._rules = rule, rules
        self._process, self._progress, self._stack = process, progress, stack

    def seat(self, job: Job) -> _Seat:
        """A job that is prepared, checked and warmed up, or has its error."""
        seat = _Seat(job)
        try:
            check_places(job.callable, job.inputs, self._place)
            if self._progress is not None:
                self._progress(Progress("prepare", name=job.name))
            seat.prepared = runtimes.prepare(
                job.callable,
                job.inputs,
                device=self._place,
                runtime=job.runtime,
                precision=job.precision,
                threads=self._rules.threads,
            )
            seat.run = Run(
                seat.prepared.call,
                self._instruments(seat.prepared),
                WarmUpRule(max_seconds=self._rules.max_warmup_seconds),
                self._rule,
                self._progress,
                name=job.name,
                active=seat.prepared.active,
                process=self._process,
            )
            seat.run.prepare()
        except VnasError as error:
            seat.error = error
        return seat

    def result(self, seat: _Seat, notes: tuple[str, ...]) -> Measurement | VnasError:
        """The side timers, the energy and the summary."""
        if seat.error is not None:
            return seat.error
        assert seat.run is not None
        assert seat.prepared is not None
        try:
            with seat.prepared.active():
                findings = seat.run.finish()
                first = findings.telemetry[0] if findings.telemetry else None
                environment = capture_environment(
                    self._place,
                    device_id=_device_id(self._place, first),
                    driver=first.driver if first else None,
                    packages=_packages(seat.job, self._place),
                )
        except VnasError as error:
            return error
        return self._measurement(seat.job, seat.prepared, findings, environment, notes)

    def _instruments(self, prepared: Prepared) -> Instruments:
        place, timer, seconds = self._place, self._timer, self._rules.energy_seconds
        no_energy = _energy_beside_a_timer if seconds else None
        if place.type == "cuda":
            own = cuda_instruments(
                place, self._stack, on_stream=prepared.on_stream, capturable=prepared.capturable, energy_seconds=seconds
            )
            return own if timer is None else Instruments(timer, own.finish, watch=own.watch, energy=no_energy)
        if timer is not None:
            return Instruments(timer, finish=lambda: None, energy=no_energy)
        return Instruments(
            CpuTimer(),
            finish=lambda: None,
            load=CpuLoad(),
            # The reference operation runs on torch's threads, which another framework's would slow, and be slowed by.
            pace=self._pace if prepared.on_stream else None,
            patience_seconds=self._rules.patience_seconds,
            faults=_page_faults if sys.platform != "win32" else None,
            energy=functools.partial(rapl.measure, window_seconds=seconds) if seconds else None,
        )

    def _measurement(
        self, job: Job, prepared: Prepared, findings: Findings, environment: Environment, notes: tuple[str, ...]
    ) -> Measurement:
        sampling, interval = findings.sampling, findings.summary.interval
        tensors = [value for value in prepared.inputs if isinstance(value, torch.Tensor)]
        return Measurement(
            median_ms=interval.median,
            interval_ms=(interval.low, interval.high),
            interval_level=interval.level,
            interval_method="one process",
            samples_ms=sampling.samples_ms,
            stop_reason=sampling.stop_reason,
            noise_ok=findings.summary.noise_ok,
            target_relative=self._rule.target_relative,
            warmup_iterations=findings.warmup.iterations,
            warmup_seconds=findings.warmup.seconds,
            device=str(self._place),
            runtime=job.runtime,
            timer=self._timer.name if self._timer is not None else _timer_name(self._place, prepared),
            precision=prepared.precision,
            layout=prepared.layout,
            input_shapes=tuple(tuple(tensor.shape) for tensor in tensors),
            input_dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors),
            environment=environment,
            launch_bound=findings.launch_bound,
            host_ms=_median(findings.host_samples_ms),
            host_samples_ms=findings.host_samples_ms,
            enqueue_ms=_median(findings.enqueue_samples_ms),
            enqueue_samples_ms=findings.enqueue_samples_ms,
            graph_ms=_median(findings.graph_samples_ms),
            graph_samples_ms=findings.graph_samples_ms,
            throttled=findings.throttled,
            contention=findings.contention,
            other_cpus=findings.other_cpus,
            page_faults=findings.page_faults,
            energy=findings.energy,
            error=prepared.error,
            valid=findings.valid,
            quiet_us=sampling.quiet_us,
            blocks=sampling.blocks,
            discarded_ms=sampling.discarded_ms,
            telemetry=findings.telemetry,
            notes=tuple(
                dict.fromkeys((*_mode_notes(job.callable), *prepared.notes, *findings.notes, *notes, PROCESS_NOTE))
            ),
        )


@contextmanager
def _settings(place: torch.device, threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    with ExitStack() as stack:
        if threads is not None and threads != before:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        if place.type == "cuda":
            stack.enter_context(torch.cuda.device(place))
        stack.enter_context(torch.inference_mode())
        yield


def _timer_name(place: torch.device, prepared: Prepared) -> str:
    if place.type == "cpu":
        return CpuTimer.name
    return "cuda events" if prepared.on_stream else "host end to end"


def _energy_beside_a_timer(call: Call) -> str:
    return "no energy: a timer was given in place of the device's own, and that gives the only number"


def _page_faults() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _device_id(place: torch.device, first: Snapshot | None) -> str | None:
    if place.type != "cuda":
        return None
    return first.uuid if first is not None and first.uuid is not None else cuda_uuid(place.index)


def _packages(job: Job, place: torch.device) -> set[str]:
    """Those that the runtime is made of, and those that the callable and its modules are from."""
    made_of = job.callable.modules() if isinstance(job.callable, torch.nn.Module) else [job.callable]
    homes = (getattr(part, "__module__", None) for part in made_of)
    named = {home.partition(".")[0] for home in homes if isinstance(home, str)}
    return {*named, *runtimes.packages(job.runtime, place.type)}


def _mode_notes(callable: object) -> tuple[str, ...]:
    if isinstance(callable, torch.nn.Module) and callable.training:
        return ("the module is in training mode; call .eval() for the latency of inference",)
    return ()


def _median(samples_ms: Sequence[float]) -> float | None:
    return statistics.median(samples_ms) if samples_ms else None
