"""The GPU of a report, looked at without touching it: CUDA is asked in another process, NVML needs no context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_steps.running import ROOT, with_checkout


@dataclass(frozen=True)
class Gpu:
    """What is measured.

    Attributes:
        name: of the GPU.
        uuid: as CUDA gives it.
        environment: more of it, and the software; plain values.
    """

    name: str
    uuid: str
    environment: Mapping[str, Any]


PROBE = """
import dataclasses, json, sys
from vnas.errors import VnasError
from vnas.profiler import capture_environment, resolve_device
from vnas.profiler.devices import cuda_uuid
try:
    device = resolve_device(gpu=int(sys.argv[1]))
except VnasError as error:
    sys.exit(f"{error}")
uuid = cuda_uuid(device.index)
print(json.dumps({"uuid": uuid, "environment": capture_environment(device, uuid).to_dict()}))
"""


def probe_gpu(index: int) -> Gpu | str:
    """The GPU of an index, or why there is none; asked in another process, so that this one stays off the GPU."""
    command = [sys.executable, "-c", PROBE, str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=with_checkout(os.environ))
    if done.returncode != 0:
        return done.stderr.strip() or f"the GPU could not be asked: exit code {done.returncode}"
    found = json.loads(done.stdout)
    return Gpu(found["environment"]["device_kind"], found["uuid"], found["environment"])


def clocks_of(uuid: str) -> str:
    """Clocks, temperature, power and other processes of a GPU in words, by NVML alone."""
    from vnas.profiler.nvml import open_gpu

    with open_gpu(uuid) as gpu:
        look = gpu.snapshot()
    parts = [
        None if look.sm_clock_mhz is None else f"SM {look.sm_clock_mhz} MHz",
        None if look.memory_clock_mhz is None else f"memory {look.memory_clock_mhz} MHz",
        None if look.temperature_c is None else f"{look.temperature_c} C",
        None if look.power_w is None else f"{look.power_w:.0f} W",
        None if look.event_reasons is None else "+".join(look.event_reasons) or "no limit",
    ]
    return ", ".join(part for part in parts if part is not None) or "unread: " + "; ".join(look.notes)
