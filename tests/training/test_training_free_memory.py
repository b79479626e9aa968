from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vnas.training.images import free_memory
from vnas.training.images.free_memory import free_mib

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1024 kB\nMemAvailable: 4194304 kB\n")
    return tmp_path


def limit(system: Path, most: str) -> None:
    (system / "memory.max").write_text(f"{most}\n")
    (system / "memory.current").write_text(f"{600 * 2**20}\n")
    (system / "memory.stat").write_text(f"anon 1\nactive_file 2\ninactive_file {100 * 2**20}\n")


def test_it_is_what_is_available_without_swapping(system: Path) -> None:
    assert free_mib(CPU) == 4096.0


def test_a_container_may_have_less(system: Path) -> None:
    limit(system, str(1000 * 2**20))
    assert free_mib(CPU) == 500.0
    limit(system, "max")
    assert free_mib(CPU) == 4096.0


@pytest.mark.parametrize("text", ["", "MemAvailable: many kB\n"])
def test_a_system_that_does_not_say(system: Path, text: str) -> None:
    (system / "meminfo").write_text(text)
    assert free_mib(CPU) is None
    (system / "meminfo").unlink()
    assert free_mib(CPU) is None
    assert free_mib(torch.device("meta")) is None


def test_a_gpus_own_memory_counts_with_what_torch_holds_and_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        mem_get_info=lambda device: (300 * 2**20, 900 * 2**20),
        memory_reserved=lambda device: 200 * 2**20,
        memory_allocated=lambda device: 50 * 2**20,
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert free_mib(torch.device("cuda", 0)) == 450.0


@pytest.mark.parametrize(
    ("theirs", "mib"),
    [([None, None], 50.0), ([30.0, None], 30.0), ([80.0, 60.0], 50.0)],
    ids=["unknown", "less", "more"],
)
def test_processes_that_share_a_run_choose_by_what_the_least_has(
    theirs: list[float | None], mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(found: list[float | None], own: float | None) -> None:
        found[:] = [own, *theirs]

    monkeypatch.setattr(free_memory, "free_mib", lambda device: 100.0)
    monkeypatch.setattr(free_memory.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(free_memory.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(free_memory.distributed, "all_gather_object", gather)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # both take from one memory
    assert free_memory.free_mib_of_all(CPU) == mib


def test_a_process_alone_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "free_mib", lambda device: 100.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory.free_mib_of_all(CPU) == 100.0
