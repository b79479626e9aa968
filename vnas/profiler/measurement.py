"""What came out of one measurement; a plain value that can be written as JSON and read again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vnas.errors import UsageError
from vnas.profiler.blocks import Block
from vnas.profiler.energy import Energy
from vnas.profiler.environment import Environment
from vnas.profiler.numerics import NumericalError
from vnas.profiler.phases import StopReason
from vnas.profiler.records import from_plain, to_plain
from vnas.profiler.telemetry import Contention, Snapshot

__all__ = ["SCHEMA", "Block", "IntervalMethod", "Measurement"]

SCHEMA = 2

OLD_SCHEMA = 1
"""Of version 0.1."""

IntervalMethod = Literal["one process", "between processes"]


@dataclass(frozen=True)
class Measurement:
    """The latency of one callable, with all that is needed to judge it. Absent is None, never 0.

    Attributes:
        median_ms: median of ``samples_ms``.
        interval_ms: interval of that median (low, high), by ``interval_method``.
        interval_level: coverage of the interval: .95, or less where there are too few samples.
        interval_method: ``one process``: the order-statistic interval of independent samples; another fresh process
            may differ by more. ``between processes``: where the median of another such call would lie.
        samples_ms: every sample that counts, in the order taken.
        stop_reason: why there are no more samples.
        noise_ok: the interval is narrower than ``target_relative`` of the median.
        target_relative: what was asked for.
        warmup_iterations: untimed calls before the first sample, the checking call aside.
        warmup_seconds: how long they took.
        device: as torch names it, e.g. ``cuda:0``.
        runtime: how the callable was run, e.g. ``eager`` or ``onnxruntime``.
        timer: what ``samples_ms`` are: CUDA events, ``perf_counter_ns`` or a replay.
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16``, another data type's name, or None if unknown.
        layout: memory layout of the first 4-D input, ``contiguous`` or ``channels_last``.
        input_shapes: one shape a tensor among the inputs.
        input_dtypes: one data type a tensor among the inputs.
        environment: device, software and switches.
        launch_bound: on a GPU, the host needs more than 0.8 of the GPU time just to launch; None elsewhere.
        host_ms: on a GPU, median of the host's end-to-end time.
        host_samples_ms: its samples.
        enqueue_ms: on a GPU, median of the time until the call returned.
        enqueue_samples_ms: its samples.
        graph_ms: on a GPU, median of the replay of a CUDA graph of the call; None where it cannot be captured.
        graph_samples_ms: its samples.
        throttled: the hardware slowed down, or a thermal or power brake, was seen; None where unreadable.
        contention: another compute process was on the GPU, or others kept a tenth of a CPU or more busy where the
            CPU is measured.
        other_cpus: on the CPU, how many CPUs other processes kept busy while sampling.
        page_faults: on the CPU, minor page faults of a call: memory that the allocator gave back and took again.
        energy: energy of one call; None where it was not measured or cannot be, and a note says which.
        error: numerical error against eager fp32; None where nothing was changed, or no reference could be run.
        valid: the number can be used. False where more was discarded than the cap allows, or where events did not see
            all of the work; a note says what.
        processes: fresh processes that the samples come from.
        quiet_us: on the CPU, pace of the undisturbed machine (``pace``), as far as seen.
        blocks: how the samples follow each other.
        discarded_ms: samples that do not count, in the order taken; their blocks say why.
        telemetry: snapshots of the GPU: before the first sample, now and then during them, after the last.
        notes: warnings that travel with the result.
    """

    median_ms: float
    interval_ms: tuple[float, float]
    interval_level: float
    interval_method: IntervalMethod
    samples_ms: tuple[float, ...]
    stop_reason: StopReason
    noise_ok: bool
    target_relative: float
    warmup_iterations: int
    warmup_seconds: float
    device: str
    runtime: str
    timer: str
    precision: str | None
    layout: str | None
    input_shapes: tuple[tuple[int, ...], ...]
    input_dtypes: tuple[str, ...]
    environment: Environment
    launch_bound: bool | None = None
    host_ms: float | None = None
    host_samples_ms: tuple[float, ...] = ()
    enqueue_ms: float | None = None
    enqueue_samples_ms: tuple[float, ...] = ()
    graph_ms: float | None = None
    graph_samples_ms: tuple[float, ...] = ()
    throttled: bool | None = None
    contention: Contention = "unknown"
    other_cpus: float | None = None
    page_faults: float | None = None
    energy: Energy | None = None
    error: NumericalError | None = None
    valid: bool = True
    processes: int = 1
    quiet_us: float | None = None
    blocks: tuple[Block, ...] = ()
    discarded_ms: tuple[float, ...] = ()
    telemetry: tuple[Snapshot, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    @property
    def energy_mj(self) -> float | None:
        """Gross energy of one call, in millijoules."""
        return None if self.energy is None else self.energy.gross_mj

    @property
    def batch(self) -> int | None:
        """First dimension of the first input tensor; None without one."""
        return self.input_shapes[0][0] if self.input_shapes and self.input_shapes[0] else None

    @property
    def relative_width(self) -> float:
        """Width of the interval over the median."""
        return (self.interval_ms[1] - self.interval_ms[0]) / self.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the version of their layout under ``schema``."""
        return {"schema": SCHEMA, **to_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """The inverse of ``to_dict``.

        Raises:
            UsageError: another schema, an unknown or missing key, or a value of the wrong kind.
        """
        rest = dict(data)
        schema = rest.pop("schema", None)
        if schema == OLD_SCHEMA:
            rest, schema = from_schema_1(rest), SCHEMA
        if schema != SCHEMA:
            raise UsageError(f"measurement has schema {schema!r}; this version reads schemas {OLD_SCHEMA} and {SCHEMA}")
        return from_plain(cls, rest, "measurement")


def from_schema_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of version 0.1's results as they are now: one process, no blocks, no energy, fewer facts."""
    old = {name: value for name, value in data.items() if name != "energy_mj"}
    if isinstance(old.get("environment"), Mapping):
        added = {"vnas": None, "revision": None, "malloc": None, "interop_threads": None}
        old["environment"] = {**added, **old["environment"]}
    if isinstance(old.get("telemetry"), list):
        old["telemetry"] = [
            {"throttled_ns": None, **look} if isinstance(look, Mapping) else look for look in old["telemetry"]
        ]
    precisions = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    absent = {
        field.name: field.default
        for field in dataclasses.fields(Measurement)
        if field.default is not dataclasses.MISSING and field.name not in old
    }
    return {
        **old,
        **absent,
        "interval_method": "one process",
        "precision": precisions.get(old.get("precision") or "", old.get("precision")),
    }
