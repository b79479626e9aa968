"""The allocator told to keep what is freed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vnas.profiler.allocator import allocator_variables, keep_freed_memory, libc_version

KEEPS = allocator_variables(libc_version()).get("MALLOC_MMAP_THRESHOLD_") == "1073741824"
BLOCK = 64 << 20
"""More than glibc ever keeps by itself."""

SCRIPT = f"""
import ctypes, resource
from vnas.profiler.allocator import applied_settings, keep_freed_memory
{{}}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({BLOCK})
    ctypes.memset(block, 1, {BLOCK})
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use()
print(min(use() for _ in range(3)), applied_settings())
"""


def faults(step: str, **variables: str) -> tuple[int, str]:
    """Page faults of taking, filling and freeing a block once more; and what was said to be set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", SCRIPT.format(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**own, **variables})
    count, _, said = done.stdout.strip().partition(" ")
    return int(count), said


def test_what_is_set_depends_on_the_library() -> None:
    assert allocator_variables("glibc 2.36") == {
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
    }
    assert allocator_variables("glibc 2.31")["MALLOC_MMAP_THRESHOLD_"] == "33554432"
    assert allocator_variables("glibc 3.0")["MALLOC_MMAP_THRESHOLD_"] == "1073741824"
    assert allocator_variables(None) == allocator_variables("musl 1.2") == allocator_variables("glibc odd") == {}
    assert keep_freed_memory({}, "musl 1.2") == {}


@pytest.mark.skipif(not KEEPS, reason="needs glibc 2.36 or newer")
def test_a_block_that_was_freed_is_taken_again_without_page_faults() -> None:
    plain, said = faults("")
    assert plain >= BLOCK // (1 << 21)  # a page has 2 MiB at most
    assert said == "{}"
    kept, said = faults("keep_freed_memory()")
    assert kept < plain // 4
    assert said == str({"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483647"})


@pytest.mark.skipif(not KEEPS, reason="needs glibc 2.36 or newer")
def test_a_variable_of_the_users_stays() -> None:
    variables = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
    plain, said = faults("keep_freed_memory()", **variables)
    assert plain >= BLOCK // (1 << 21)
    assert said == "{}"
