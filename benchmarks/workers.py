"""Runs that do not depend on each other, each on one thread: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from vnas.profiler.allocator import keep_freed_memory

T = TypeVar("T")
R = TypeVar("R")


def performed(work: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[R]:
    """What the work makes of each task, as it comes.

    Args:
        work: can be pickled where there are several processes.
        tasks: in the order in which they are begun.
        processes: with 1, everything is done here, with torch's threads set to 1.
    """
    if processes == 1:
        keep_freed_memory()
        torch.set_num_threads(1)
        yield from map(work, tasks)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks) or 1), mp_context=context, initializer=_ready) as pool:
        try:
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                yield future.result()
        except BaseException:
            # Without this the pool would wait for runs whose results nobody takes.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _ready() -> None:
    """Ctrl-C reaches every process of a terminal; the first one stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(1)
