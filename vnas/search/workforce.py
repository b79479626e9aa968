"""Who works on a study: a process a GPU, processes that share the cores, or this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vnas.config import StudyConfig
from vnas.errors import DeviceError, UsageError
from vnas.profiler import Environment, capture_environment, resolve_device
from vnas.search.engine.inline import InlineExecutor
from vnas.search.engine.protocol import Executor
from vnas.search.nets import NetWorker
from vnas.search.workers.pool import ProcessPool, WorkerPlan

if TYPE_CHECKING:
    import torch


def devices_of(gpu: str | None, device: str | None) -> list[torch.device]:
    """The devices that ``--gpu`` or ``--device`` name; the first GPU, else the CPU, where neither is given.

    Raises:
        DeviceError: there is no such device, or one is named twice.
    """
    if gpu is None or "," not in gpu:
        return [resolve_device(gpu, device)]
    devices = [resolve_device(name.strip(), None) for name in gpu.split(",")]
    if len(set(devices)) < len(devices):
        raise DeviceError(f"--gpu {gpu} names a GPU twice; a GPU has one worker")
    return devices


def one_kind(devices: list[torch.device]) -> Environment:
    """Where the first device is; all must be of its kind, for the latencies of a study are compared.

    Raises:
        DeviceError: they are not.
    """
    environments = [capture_environment(device) for device in devices]
    kinds = {str(device): found.device_kind for device, found in zip(devices, environments, strict=True)}
    if len(set(kinds.values())) > 1:
        listing = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise DeviceError(f"the GPUs are of several kinds ({listing}); name those of one kind with --gpu")
    return environments[0]


def processes(devices: list[torch.device], asked: int | None) -> int:
    """How many worker processes there will be.

    Args:
        devices: from :func:`devices_of`.
        asked: ``--workers``.

    Raises:
        UsageError: GPUs and another number of workers.
    """
    if devices[0].type == "cpu":
        return 1 if asked is None else asked
    if asked is not None and asked not in (0, len(devices)):
        raise UsageError(
            f"--workers {asked} with {len(devices)} GPU: each GPU has one worker, so that measuring has it alone. "
            "Leave --workers out, or name more GPUs"
        )
    if asked == 0 and len(devices) > 1:
        raise UsageError("--workers 0 works in this process, on one GPU; name one with --gpu")
    return len(devices) if asked is None else asked


def hire(
    config: StudyConfig,
    devices: list[torch.device],
    count: int,
    run_dir: Path,
    advanced: Callable[[int, float], None],
) -> tuple[Executor, list[str]]:
    """Workers, and their names.

    Args:
        config: the study.
        devices: to work on.
        count: from :func:`processes`.
        run_dir: of the study.
        advanced: told the trial and the share that is done, where there is no process to say so.
    """
    import torch

    threads = torch.get_num_threads() if devices[0].type == "cpu" else None
    if count == 0:
        evaluator = NetWorker(config, str(devices[0]), threads, run_dir)()
        return InlineExecutor(evaluator, advanced), [f"{devices[0]}, in this process"]
    cores = _cores() if threads is None else threads
    environment = {} if count == 1 else {"OMP_NUM_THREADS": str(max(1, cores // count))}
    places = devices if len(devices) == count else devices * count
    plans = [
        WorkerPlan(
            NetWorker(config, str(place), threads, run_dir),
            environment=environment,
            name=str(place) if place.type == "cuda" else f"cpu, worker {number}",
        )
        for number, place in enumerate(places, 1)
    ]
    return ProcessPool(plans, hang_seconds=60.0 * config.workers.hang_minutes), [plan.name for plan in plans]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
