"""Where a number was taken: everything that changes a latency and is not the net."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vnas
from vnas.profiler.allocator import applied_settings
from vnas.profiler.records import LATER, to_plain

if TYPE_CHECKING:
    import torch

GIT_SECONDS = 2.0
"""How long git may take to tell the revision."""

_CPU_ROOT = Path("/sys/devices/system/cpu")

_OWN_FIELDS = frozenset({"torch", "vnas"})


@dataclass(frozen=True)
class Environment:
    """The device, the software and the switches of one measurement. None is: not there, or not readable.

    Attributes:
        device_kind: name of the GPU, or model of the CPU and how many of its logical CPUs this process may use.
            Latencies of different kinds are never compared or mixed.
        device_type: ``cuda`` or ``cpu``.
        device_id: UUID of the GPU, ``GPU-...`` or ``MIG-...`` from NVML; CUDA's, without that, where NVML is silent.
        driver: version of the NVIDIA driver.
        cuda: CUDA version that torch was built with.
        cudnn: cuDNN version, as ``9.24.0``.
        torch: torch version.
        python: Python version.
        cpu_model: as the CPU names itself.
        cpu_cores: physical cores of the machine.
        cpu_threads: logical CPUs this process may run on.
        cpu_governor: frequency governor of the first CPU.
        threads: torch's intra-operator threads while measuring.
        matmul_precision: ``torch.get_float32_matmul_precision()``; None where torch refuses to say, because the
            same was set through the newer ``fp32_precision``.
        matmul_tf32: TF32 in float32 matrix products on a GPU.
        cudnn_tf32: TF32 in float32 convolutions on a GPU.
        cudnn_benchmark: cuDNN chooses its algorithms by trying them.
        deterministic: ``torch.are_deterministic_algorithms_enabled()``.
        os: operating system, kernel and machine.
        date_utc: when, ISO 8601, UTC.
        vnas: version of this package.
        revision: git revision of the folder that vnas runs from, with ``+`` where a tracked file was changed; None
            where it is installed, or git cannot tell.
        interop_threads: torch's inter-operator threads.
        malloc: settings of the process that change how memory is allocated, as ``NAME=value;...``: glibc gives freed
            memory back or keeps it, which alone can change a latency by a fifth. None where there are none.
        packages: versions of the packages that the net and its runtime are from, torch and this one aside, by name:
            ``timm``, ``onnxruntime``, ``triton`` and so on. Files from before they were recorded have none.
    """

    device_kind: str
    device_type: str
    device_id: str | None
    driver: str | None
    cuda: str | None
    cudnn: str | None
    torch: str
    python: str
    cpu_model: str
    cpu_cores: int | None
    cpu_threads: int
    cpu_governor: str | None
    threads: int
    matmul_precision: str | None
    matmul_tf32: bool
    cudnn_tf32: bool
    cudnn_benchmark: bool
    deterministic: bool
    os: str
    date_utc: str
    vnas: str | None = None
    revision: str | None = None
    interop_threads: int | None = None
    malloc: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict, hash=False, metadata=LATER)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def capture_environment(
    device: torch.device, device_id: str | None = None, driver: str | None = None, packages: Iterable[str] = ()
) -> Environment:
    """The environment as it is now.

    Args:
        device: the device measured on.
        device_id: its UUID, where known.
        driver: driver version, where known; torch does not tell it.
        packages: names, as they are imported, of those whose version is to be recorded where they have one.
    """
    import torch

    on_gpu = device.type == "cuda"
    return Environment(
        device_kind=torch.cuda.get_device_name(device) if on_gpu else cpu_kind(),
        device_type=device.type,
        device_id=device_id,
        driver=driver,
        cuda=torch.version.cuda,
        cudnn=_cudnn_version(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        torch=str(torch.__version__),  # a subclass of str, which JSON would not give back
        python=platform.python_version(),
        cpu_model=cpu_model(),
        cpu_cores=physical_cores(_read(Path("/proc/cpuinfo")) or ""),
        cpu_threads=usable_cpus(),
        cpu_governor=_read(_CPU_ROOT / "cpu0/cpufreq/scaling_governor"),
        threads=torch.get_num_threads(),
        matmul_precision=_matmul_precision(),
        matmul_tf32=torch.backends.cuda.matmul.fp32_precision == "tf32",
        cudnn_tf32=torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        date_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        vnas=vnas.__version__,
        revision=git_revision(Path(vnas.__file__).parents[1]),
        interop_threads=torch.get_num_interop_threads(),
        malloc=malloc_settings({**applied_settings(), **os.environ}),
        packages=versions(packages),
    )


def cpu_kind() -> str:
    """Model of the CPU and how many logical CPUs this process may use, e.g. ``AMD EPYC 7763, 8 CPUs``."""
    count = usable_cpus()
    return f"{cpu_model()}, {count} CPU{'s' if count != 1 else ''}"


def usable_cpus() -> int:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """The CPU's own name; the machine's architecture where it has none that can be read."""
    named = model_name(_read(Path("/proc/cpuinfo")) or "") or _read(Path("/proc/device-tree/model"))
    if named is None and sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        named = asked.stdout.strip() or None
    return named or platform.processor() or platform.machine()


def model_name(cpuinfo: str) -> str | None:
    """The model in the text of ``/proc/cpuinfo``, whose field differs between architectures."""
    found = re.search(r"^(?:model name|Model|cpu model|cpu)\s*:\s*(\S.*?)\s*$", cpuinfo, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else None


def physical_cores(cpuinfo: str) -> int | None:
    """Physical cores in the text of ``/proc/cpuinfo``; None where it does not say."""
    cores: set[tuple[str, str]] = set()
    for block in cpuinfo.split("\n\n"):
        fields = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", block, re.MULTILINE))
        if "physical id" in fields and "core id" in fields:
            cores.add((fields["physical id"], fields["core id"]))
    return len(cores) or None


@lru_cache(maxsize=1)
def git_revision(root: Path) -> str | None:
    """The revision checked out in a folder, with ``+`` where tracked files differ from it; asked for once.

    Args:
        root: what the repository holds at its top; a folder inside of one has no revision.
    """
    if not (root / ".git").exists():
        return None
    # Without the optional locks, reading the state cannot get in the way of somebody who commits.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            env={**clean, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions by package, sorted; without torch and this package, which have fields of their own.

    Args:
        packages: as they are imported. What is no installed package (a file of the user's, say) is left out.
    """
    found = {name: _version(name) for name in sorted({*packages} - _OWN_FIELDS)}
    return {name: version for name, version in found.items() if version is not None}


def malloc_settings(environment: Mapping[str, str]) -> str | None:
    """The variables that change the allocator, sorted; of preloaded libraries the names without their folders."""
    found = {name: value for name, value in environment.items() if name.startswith("MALLOC_")}
    if "malloc" in environment.get("GLIBC_TUNABLES", ""):
        found["GLIBC_TUNABLES"] = environment["GLIBC_TUNABLES"]
    if preloaded := re.split(r"[:\s]+", environment.get("LD_PRELOAD", "").strip(": ")):
        found["LD_PRELOAD"] = ":".join(Path(library).name for library in preloaded)
    return ";".join(f"{name}={value}" for name, value in sorted(found.items()) if value) or None


def _version(package: str) -> str | None:
    """The imported one's own word comes first: onnxruntime is installed as onnxruntime-gpu, too."""
    said = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(said, str):
        return said
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _matmul_precision() -> str | None:
    import torch

    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:
        return None


def _cudnn_version(number: int | None) -> str | None:
    """``9.24.0`` from 92400 (cuDNN 9) and ``8.9.7`` from 8907 (cuDNN 8)."""
    if number is None:
        return None
    unit = 10_000 if number >= 90_000 else 1_000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None
