"""How much memory a device has free, for what is to stay in it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import distributed

_MEMINFO = Path("/proc/meminfo")
# What a container may use and uses: of control groups, version 2.
_CGROUP = Path("/sys/fs/cgroup")


def free_mib_of_all(device: torch.device) -> float | None:
    """The same for each of several processes that share a run (torchrun): all of them must choose alike.

    What the least has free counts for all; on the CPU it is shared among the processes of a machine. Every process of
    the run must ask at the same time.
    """
    found = free_mib(device)
    if not (distributed.is_available() and distributed.is_initialized()):
        return found
    if found is not None and device.type == "cpu":
        found /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    of_all: list[float | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, found)
    known = [mib for mib in of_all if mib is not None]
    return min(known, default=None)


def free_mib(device: torch.device) -> float | None:
    """Memory that can still be taken, in MiB; None where the system does not say.

    Args:
        device: a GPU, whose own memory it is; or the CPU, where it is what is available without swapping, in this
            container if it has a limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Blocks that torch holds and does not use are free to it, though not to the driver.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + unused) / 2**20
    if device.type != "cpu":
        return None
    known = [mib for mib in (_available(_MEMINFO), _left_in_container(_CGROUP)) if mib is not None]
    return min(known, default=None)


def _available(meminfo: Path) -> float | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**10
    except (OSError, ValueError, StopIteration):
        return None


def _left_in_container(cgroup: Path) -> float | None:
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        statistics = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        # Pages of files that were read make room when memory is asked for.
        files = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
        return (int(limit) - used + files) / 2**20
    except (OSError, ValueError):
        return None
