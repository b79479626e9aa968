"""What NVML says about one GPU, found by its UUID. A field that cannot be read is None, and a note says why.

CUDA numbers devices fastest first and CUDA_VISIBLE_DEVICES renumbers them; NVML numbers them by PCI bus. Only the
UUID means the same device to both.

A slice of a GPU (MIG) has no clocks, power or temperature of its own: they are None, never its parent's. Where CUDA
gives the parent's UUID for a slice, NVML's handle is the parent's; while MIG is on, next to nothing is read from it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from vnas.profiler.telemetry import Snapshot, decode_reasons

T = TypeVar("T")


@contextmanager
def open_gpu(uuid: str, pid: int | None = None, all_visible: bool | None = None) -> Iterator[Gpu | NoTelemetry]:
    """The GPU of a UUID, for as long as the context lasts; a stand-in that knows why where NVML cannot find it.

    Args:
        uuid: as torch gives it (``torch.cuda.get_device_properties(i).uuid``), with or without a prefix.
        pid: what to take as this process in the list of processes; by default the real one.
        all_visible: whether NVML's list can show processes of the whole machine; by default as
            ``sees_all_processes`` finds.
    """
    try:
        import pynvml
    except ImportError:
        yield NoTelemetry("no GPU telemetry: nvidia-ml-py is not installed; pip install nvidia-ml-py")
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield NoTelemetry(f"no GPU telemetry: NVML says {error}")
        return
    try:
        yield _find(
            pynvml,
            uuid,
            os.getpid() if pid is None else pid,
            sees_all_processes() if all_visible is None else all_visible,
        )
    finally:
        _shut_down(pynvml)


def sees_all_processes() -> bool:
    """Whether this process is outside of every container, so that a list of processes can be complete.

    A PID namespace other than the first hides the processes outside of it from NVML's list.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        # The first namespace's inode is fixed: PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h.
        return str(Path("/proc/self/ns/pid").readlink()) == f"pid:[{0xEFFFFFFC}]"
    except OSError:
        return False


class NvmlEnergy:
    """The GPU's count of all the energy that it has taken since the driver was loaded. Made by ``Gpu``."""

    source: Literal["nvml"] = "nvml"

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.reason: str | None = None

    def read_mj(self) -> float | None:
        """Millijoules; None where NVML does not say, and then ``reason`` is why."""
        self.reason = None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            self.reason = f"the GPU's energy counter cannot be read: NVML says {error}"
            return None


class NoTelemetry:
    """Stands in for a GPU that cannot be looked at: a note says why.

    Args:
        reason: why.
        known: of the machine; every other field is None.
    """

    def __init__(self, reason: str, known: Snapshot | None = None) -> None:
        self._reason = reason
        self._known = Snapshot() if known is None else known

    def snapshot(self) -> Snapshot:
        """What is known of the machine, and why no more is."""
        return dataclasses.replace(self._known, notes=(*self._known.notes, self._reason))

    def glance(self) -> Snapshot:
        """Nothing, and why."""
        return Snapshot(full=False, notes=(self._reason,))

    def energy_counter(self) -> str:
        """Why there is none."""
        return f"no energy: {self._reason}"


class Gpu:
    """One GPU, or one slice of one, as NVML sees it. Made by ``open_gpu``."""

    def __init__(self, nvml: ModuleType, handle: Any, pid: int, all_visible: bool) -> None:
        self._nvml = nvml
        self._handle = handle
        self._pid = pid
        self._all_visible = all_visible
        self._policies: tuple[int, ...] | None = None

    def energy_counter(self) -> NvmlEnergy | str:
        """The counter of the energy taken so far, or the reason why there is none: GPUs before Volta, slices."""
        counter = NvmlEnergy(self._nvml, self._handle)
        return counter if counter.read_mj() is not None else f"no energy: {counter.reason}"

    def snapshot(self) -> Snapshot:
        """Everything that can be read: some twenty queries, a few milliseconds."""
        nvml, handle, reader = self._nvml, self._handle, _Reader(self._nvml)
        uuid = reader.read("uuid", lambda: str(nvml.nvmlDeviceGetUUID(handle)))
        split = reader.read("mig", lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]))
        if uuid is not None and uuid.startswith("MIG-"):
            split = True
        return Snapshot(
            name=reader.read("name", lambda: str(nvml.nvmlDeviceGetName(handle))),
            uuid=uuid,
            **_versions(nvml, reader),
            sm_clock_max_mhz=reader.read(
                "sm_clock_max_mhz", lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
            ),
            memory_clock_max_mhz=reader.read(
                "memory_clock_max_mhz", lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))
            ),
            power_limit_w=reader.read(
                "power_limit_w", lambda: float(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1e3
            ),
            persistence=reader.read("persistence", lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
            mig=split,
            ecc=reader.read("ecc", lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
            **self._changing(reader),
            full=True,
            notes=reader.notes(),
        )

    def glance(self) -> Snapshot:
        """What changes while sampling: clocks, temperature, power, event reasons, utilisation, memory, processes."""
        reader = _Reader(self._nvml)
        return Snapshot(**self._changing(reader), full=False, notes=reader.notes())

    def _changing(self, reader: _Reader) -> dict[str, Any]:
        nvml, handle = self._nvml, self._handle
        listed, others = self._processes(reader)
        memory = reader.read("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return {
            "sm_clock_mhz": reader.read(
                "sm_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
            ),
            "memory_clock_mhz": reader.read(
                "memory_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))
            ),
            "temperature_c": reader.read("temperature_c", lambda: _temperature(nvml, handle)),
            "power_w": reader.read("power_w", lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3),
            "event_reasons": reader.read("event_reasons", lambda: decode_reasons(_reasons(nvml, handle))),
            "throttled_ns": reader.read("throttled_ns", self._throttled_ns),
            "utilisation_percent": reader.read(
                "utilisation_percent", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            ),
            "memory_used_mib": None if memory is None else int(memory.used) >> 20,
            "memory_total_mib": None if memory is None else int(memory.total) >> 20,
            "own_process_listed": listed,
            "other_processes": others,
        }

    def _throttled_ns(self) -> int:
        """Sum of the policies that this GPU keeps time of: always the same ones, so that it can only grow.

        The power limit is left out: it holds a loaded data-centre card down as a matter of course. So is reliability:
        the highest voltage that a chip may have is what ends its boost on any day.
        """
        nvml = self._nvml
        wanted = (nvml.NVML_PERF_POLICY_THERMAL, nvml.NVML_PERF_POLICY_BOARD_LIMIT)
        times: dict[int, int] = {}
        for policy in wanted if self._policies is None else self._policies:
            try:
                times[policy] = int(nvml.nvmlDeviceGetViolationStatus(self._handle, policy).violationTime)
            except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument) as error:
                if self._policies is not None or (policy == wanted[-1] and not times):
                    raise error
        self._policies = tuple(times)
        return sum(times.values())

    def _processes(self, reader: _Reader) -> tuple[bool | None, int | None]:
        """Whether this process is listed, and how many others there are for certain."""
        found = reader.read(
            "other_processes",
            lambda: {int(entry.pid) for entry in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)},
        )
        if found is None:
            return None, None
        listed = self._pid in found
        # A list that does not name this process shows it under another number, or not at all: of its entries all
        # but one are other processes in either case.
        others = len(found) - 1 if found else 0
        if others > 0 or (listed and self._all_visible):
            return listed, others
        if listed:
            reader.note("other_processes: the list may leave out processes outside of this container")
        else:
            reader.note("other_processes: the list does not name this process, so it is not complete")
        return listed, None


class _Reader:
    """Reads field by field and gathers the reasons for those that cannot be read."""

    def __init__(self, nvml: ModuleType) -> None:
        # The second is no NVMLError: a call that the library at hand has under an older name only.
        self._errors = (nvml.NVMLError, nvml.NVMLLibraryMismatchError)
        self._unread: dict[str, list[str]] = {}
        self._others: list[str] = []

    def read(self, field: str, query: Callable[[], T]) -> T | None:
        try:
            return query()
        except self._errors as error:
            self._unread.setdefault(str(error), []).append(field)
            return None

    def note(self, line: str) -> None:
        self._others.append(line)

    def notes(self) -> tuple[str, ...]:
        unread = (f"{', '.join(fields)}: NVML says {reason}" for reason, fields in self._unread.items())
        return (*unread, *self._others)


def _versions(nvml: ModuleType, reader: _Reader) -> dict[str, Any]:
    cuda = reader.read("cuda_driver", lambda: int(nvml.nvmlSystemGetCudaDriverVersion()))
    return {
        "driver": reader.read("driver", lambda: str(nvml.nvmlSystemGetDriverVersion())),
        "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
    }


def _reasons(nvml: ModuleType, handle: Any) -> int:
    """Drivers before 535 know the reasons under their old name only."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except nvml.NVMLError_FunctionNotFound:
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _temperature(nvml: ModuleType, handle: Any) -> int:
    """The versioned query is the current one; older drivers, and older nvidia-ml-py, have the plain one only."""
    versioned = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
    if versioned is not None:
        try:
            return int(versioned(handle, nvml.NVML_TEMPERATURE_GPU))
        except nvml.NVMLError_FunctionNotFound:
            pass
    return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _find(nvml: ModuleType, uuid: str, pid: int, all_visible: bool) -> Gpu | NoTelemetry:
    """CUDA's UUID has no prefix, and is that of the slice where the process was given one, or of its parent."""
    known = uuid.startswith(("GPU-", "MIG-"))
    reasons: list[str] = []
    for candidate in [uuid] if known else [f"GPU-{uuid}", f"MIG-{uuid}"]:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(candidate)
        except nvml.NVMLError as error:
            reasons.append(f"{candidate}: {error}")
            continue
        if candidate.startswith("GPU-") and _is_split(nvml, handle):
            reader = _Reader(nvml)
            machine = Snapshot(**_versions(nvml, reader), mig=True, notes=reader.notes())
            return NoTelemetry(
                f"no GPU telemetry: MIG is on, and {candidate} is the whole GPU, not the slice that is measured; "
                "a slice has no clocks, power or energy of its own",
                machine,
            )
        return Gpu(nvml, handle, pid, all_visible)
    return NoTelemetry(f"no GPU telemetry: NVML does not give this device ({'; '.join(reasons)})")


def _is_split(nvml: ModuleType, handle: Any) -> bool:
    """Whether MIG is on now: CUDA can use slices only. Most GPUs cannot be split, and do not say."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return False


def _shut_down(nvml: ModuleType) -> None:
    """A library that has gone by now has nothing left to shut down."""
    with suppress(nvml.NVMLError):
        nvml.nvmlShutdown()
