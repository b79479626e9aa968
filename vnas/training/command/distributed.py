"""One run in several processes, a GPU each, as torchrun starts them.

    torchrun --nproc-per-node 4 -m vnas.training vanillanet_6 --recipe paper --data /path/to/imagenet

torchrun tells each process its rank in the environment. Every process has the whole net and takes its share of each
batch; DistributedDataParallel averages the gradients, so all of them take the same step. What is the same everywhere
because every process computes it from the same step and configuration: lambda, the learning rate, the weights.

``training.batch_size`` is the whole batch, over all processes. Batch norms average over a process's own share of it, as
the official code's do; the running statistics are the first process's, which all others take over before each step, and
at the end they are estimated anew. ``--sync-norms`` averages over the whole batch instead, on GPUs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vnas.errors import UsageError

WAIT = timedelta(minutes=60)
"""How long a process waits for another: the first one judges the net now and then while the others stand still."""

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Rank:
    """Which of the processes of a run this is.

    Attributes:
        rank: from 0, over all machines; 0 is the one that writes and speaks.
        world: how many there are.
        local_rank: from 0 on this machine, which is the index of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    @property
    def shard(self) -> tuple[int, int] | None:
        """Rank and number of processes, or None where there is one."""
        return None if self.alone else (self.rank, self.world)


def rank_of(environment: Mapping[str, str]) -> Rank | None:
    """The rank that torchrun's variables tell; None where they are not there.

    Raises:
        UsageError: some of them are missing, or are no numbers that fit together.
    """
    there = [name for name in _NAMES if name in environment]
    if "RANK" not in there or "WORLD_SIZE" not in there:
        # Other programs set one of them for purposes of their own.
        return None
    values = [environment.get(name, environment["RANK"]) for name in _NAMES]
    if not all(value.isascii() and value.isdigit() for value in values):
        raise UsageError(f"{', '.join(_NAMES)} are {', '.join(map(repr, values))}; torchrun sets them to whole numbers")
    rank, world, local_rank = map(int, values)
    if rank >= world:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {world}; ranks go from 0 to {world - 1}")
    return Rank(rank, world, local_rank)


def device_name(rank: Rank, gpu: str | None, device: str | None, gpus: int) -> str | None:
    """The device of one process, as ``--device`` names it; None leaves the choice as it is for a single process.

    Args:
        rank: of the process.
        gpu: what was given to ``--gpu``.
        device: what was given to ``--device``.
        gpus: GPUs there are on this machine.

    Raises:
        UsageError: a single device was asked for by number, and there are several processes.
    """
    if rank.alone:
        return device
    if gpu is not None or (device is not None and device not in ("cpu", "cuda")):
        asked = f"--gpu {gpu}" if gpu is not None else f"--device {device}"
        raise UsageError(
            f"{asked} names one device for {rank.world} processes; leave it out, and process N of a machine takes its "
            "GPU N (CUDA_VISIBLE_DEVICES chooses among them), or type --device cpu"
        )
    return "cpu" if device == "cpu" or not gpus else f"cuda:{rank.local_rank}"


def share_of_batch(batch_size: int, world: int) -> int:
    """Images of a batch that each process takes.

    Raises:
        UsageError: the batch cannot be shared evenly, or leaves a batch norm a single image.
    """
    share, rest = divmod(batch_size, world)
    if rest or share < 2:
        fitting = max(2, round(batch_size / world)) * world
        raise UsageError(
            f"training.batch_size = {batch_size} is the whole batch and cannot be shared evenly by {world} processes, "
            f"two images each at least; type for example --set training.batch_size={fitting}"
        )
    return share


@contextmanager
def joined(rank: Rank, device: torch.device) -> Iterator[None]:
    """In contact with the other processes: nccl between GPUs, gloo between CPUs. Nothing for one that is alone.

    The address comes from the environment (``MASTER_ADDR``, ``MASTER_PORT``), as torchrun sets it.
    """
    if rank.alone:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=rank.rank, world_size=rank.world, timeout=WAIT
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wrapper(rank: Rank, device: torch.device, *, sync_norms: bool = False) -> Callable[[nn.Module], nn.Module]:
    """What puts a net to train into DistributedDataParallel; it is the net itself where a process is alone.

    The parameters of the first process go to all others when a net is wrapped, so it must be wrapped again when its
    parameters are replaced by others (a merge).

    Args:
        rank: of the process.
        device: where the net is.
        sync_norms: replace the batch norms, in place, by ones that average over all processes; on GPUs only.

    Raises:
        UsageError: ``sync_norms`` on a CPU, which torch does not have.
    """
    if sync_norms and device.type != "cuda":
        raise UsageError("--sync-norms needs GPUs: torch synchronises batch norms between them only; leave it out")

    def wrap(net: nn.Module) -> nn.Module:
        if rank.alone:
            return net
        if sync_norms:
            share_norms(net)
        # A 1x1 kernel in either order of its dimensions is the same memory, but not the same strides.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)

    return wrap


class SharedNorm(nn.SyncBatchNorm, nn.BatchNorm2d):
    """A batch norm over all processes that is still a ``BatchNorm2d``, as fusing and merging want it."""

    process_group = None  # torch's sign for all processes


def share_norms(net: nn.Module) -> None:
    """Let every batch norm of a net average over all processes in training, in place; parameters stay the same ones."""
    for norm in net.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = SharedNorm


def unshare_norms(net: nn.Module) -> None:
    """Undo :func:`share_norms`: for a copy that one process alone puts to use."""
    for norm in net.modules():
        if isinstance(norm, SharedNorm):
            norm.__class__ = nn.BatchNorm2d  # type: ignore[assignment]


def in_environment() -> Rank:
    """The rank of this process; that of a single one where torchrun did not start it.

    Raises:
        UsageError: torchrun's variables do not fit together.
    """
    return rank_of(os.environ) or Rank()
