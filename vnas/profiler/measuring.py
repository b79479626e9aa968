"""``measure``: the latency of any callable on any device."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from vnas.errors import MeasurementError, UsageError, nearest
from vnas.profiler.cpu_load import CpuLoad
from vnas.profiler.cuda import cuda_instruments
from vnas.profiler.devices import cuda_uuid, resolve_device
from vnas.profiler.environment import capture_environment
from vnas.profiler.measurement import RUNTIMES, Measurement, Runtime
from vnas.profiler.phases import StoppingRule, WarmUpRule
from vnas.profiler.protocol import Findings, Instruments, Progress, Report, run_protocol
from vnas.profiler.telemetry import Snapshot
from vnas.profiler.timers import CpuTimer, Timer

__all__ = ["Progress", "measure"]

ENERGY_NOTE = "energy_mj is None: energy is not measured by this version"
PROCESS_NOTE = "one process: a fresh process may differ by more than the interval says"


def measure(
    callable: Callable[..., object],
    /,
    *inputs: object,
    device: str | torch.device = "cpu",
    runtime: Runtime = "eager",
    target_relative: float = 0.01,
    min_samples: int = 50,
    min_seconds: float = 0.5,
    max_seconds: float = 15.0,
    max_warmup_seconds: float = 3.0,
    timer: Timer | None = None,
    threads: int | None = None,
    progress: Report | None = None,
) -> Measurement:
    """Measure ``callable(*inputs)`` under ``torch.inference_mode``.

    On a GPU the samples are times between two CUDA events around the eager call; the host's end-to-end and enqueue
    times and the replay of a CUDA graph come with them. On the CPU they are ``perf_counter_ns``. Caches are as the
    last call left them (warm), and calls follow each other without pauses.

    Args:
        callable: a module in eval mode, or anything else that can be called. It does its work on ``device``.
        inputs: its positional arguments; tensors among them are on ``device``.
        device: ``cpu``, ``cuda:0`` or a torch.device.
        runtime: how the callable is run.
        target_relative: stop when the 95 % interval of the median is narrower than this share of it.
        min_samples: samples at least.
        min_seconds: seconds of sampling at least.
        max_seconds: time limit of sampling; each of the three other timers of a GPU adds at most a fifth of it.
        max_warmup_seconds: cap of the warm-up.
        timer: replaces the device's own, and then gives the only number.
        threads: torch threads while measuring, restored afterwards; by default those that are set.
        progress: told about each phase, and every half second while sampling.

    Returns:
        Measurement, in milliseconds.

    Raises:
        MeasurementError: the callable raised (the original is the cause), an input or a parameter is on another
            device, or a sample is not a positive number.
        DeviceError: there is no such device.
        UsageError: a number that is not allowed, or an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise UsageError(
            f"runtime {runtime!r} is not known; allowed are {', '.join(RUNTIMES)}.{nearest(str(runtime), RUNTIMES)}"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads = {threads}; it must be at least 1")
    rule = StoppingRule(target_relative, min_samples, min_seconds, max_seconds, max(100_000, min_samples))
    warmup = WarmUpRule(max_seconds=max_warmup_seconds)
    place = resolve_device(device=device)
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    _check_places(callable, tensors, place)
    call = functools.partial(callable, *inputs)
    with _settings(place, threads), ExitStack() as held:
        instruments = _instruments(place, timer, held)
        findings = run_protocol(call, instruments, warmup, rule, progress)
        first = findings.telemetry[0] if findings.telemetry else None
        environment = capture_environment(
            place, device_id=_device_id(place, first), driver=first.driver if first else None
        )
    interval = findings.summary.interval
    return Measurement(
        median_ms=interval.median,
        interval_ms=(interval.low, interval.high),
        interval_level=interval.level,
        samples_ms=findings.sampling.samples_ms,
        stop_reason=findings.sampling.stop_reason,
        noise_ok=findings.summary.noise_ok,
        target_relative=target_relative,
        warmup_iterations=findings.warmup.iterations,
        warmup_seconds=findings.warmup.seconds,
        device=str(place),
        runtime=runtime,
        timer=instruments.main.name,
        precision=_precision(callable, tensors),
        layout=_layout(tensors),
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
        telemetry=findings.telemetry,
        notes=_notes(callable, findings),
    )


def _instruments(place: torch.device, timer: Timer | None, held: ExitStack) -> Instruments:
    if place.type == "cuda":
        own = cuda_instruments(place, held)
        return own if timer is None else Instruments(timer, own.finish, watch=own.watch)
    if timer is None:
        return Instruments(CpuTimer(), finish=lambda: None, load=CpuLoad())
    return Instruments(timer, finish=lambda: None)


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


def _device_id(place: torch.device, first: Snapshot | None) -> str | None:
    if place.type != "cuda":
        return None
    return first.uuid if first is not None and first.uuid is not None else cuda_uuid(place.index)


def _check_places(callable: object, tensors: Sequence[torch.Tensor], place: torch.device) -> None:
    for number, tensor in enumerate(tensors):
        if tensor.device != place:
            raise MeasurementError(
                f"check: input {number} is on {tensor.device}, the measurement on {place}; "
                f"pass input.to({str(place)!r})"
            )
    if isinstance(callable, torch.nn.Module):
        for name, tensor in (*callable.named_parameters(), *callable.named_buffers()):
            if tensor.device != place:
                raise MeasurementError(
                    f"check: {name} of the module is on {tensor.device}, the measurement on {place}; "
                    f"pass module.to({str(place)!r})"
                )


def _precision(callable: object, tensors: Sequence[torch.Tensor]) -> str | None:
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floating and isinstance(callable, torch.nn.Module):
        floating = [parameter for parameter in callable.parameters() if parameter.is_floating_point()]
    return str(floating[0].dtype).removeprefix("torch.") if floating else None


def _layout(tensors: Sequence[torch.Tensor]) -> str | None:
    for tensor in tensors:
        if tensor.dim() == 4:
            if tensor.is_contiguous():
                return "contiguous"
            return "channels_last" if tensor.is_contiguous(memory_format=torch.channels_last) else "strided"
    return None


def _median(samples_ms: Sequence[float]) -> float | None:
    return statistics.median(samples_ms) if samples_ms else None


def _notes(callable: object, findings: Findings) -> tuple[str, ...]:
    training = isinstance(callable, torch.nn.Module) and callable.training
    return (
        *(["the module is in training mode; call .eval() for the latency of inference"] if training else []),
        *findings.notes,
        PROCESS_NOTE,
        ENERGY_NOTE,
    )
