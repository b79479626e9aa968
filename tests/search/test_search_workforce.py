"""Who works: which devices are named, that they are of one kind, how many processes, and what each is told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vnas.config import StudyConfig, load_study
from vnas.errors import DeviceError, UsageError
from vnas.search import workforce
from vnas.search.engine.inline import InlineExecutor
from vnas.search.workers.pool import ProcessPool, WorkerPlan

CPU = torch.device("cpu")


def gpus(*numbers: int) -> list[torch.device]:
    return [torch.device("cuda", number) for number in numbers]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three GPUs, of two kinds."""
    kinds = {"cuda:0": "H100", "cuda:1": "H100", "cuda:2": "T4", "cpu": "a CPU"}

    def resolve(gpu: str | None, device: str | None) -> torch.device:
        name = device or (f"cuda:{gpu}" if gpu is not None else "cuda:0")
        if name not in kinds:
            raise DeviceError(f"no {name}; the devices there are:\n  {', '.join(kinds)}")
        return torch.device(name)

    monkeypatch.setattr(workforce, "resolve_device", resolve)
    monkeypatch.setattr(
        workforce, "capture_environment", lambda device: SimpleNamespace(device_kind=kinds[str(device)])
    )
    return kinds


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("gpu", "device", "found"),
    [
        (None, None, ["cuda:0"]),
        ("1", None, ["cuda:1"]),
        ("0,1", None, ["cuda:0", "cuda:1"]),
        ("1, 0", None, ["cuda:1", "cuda:0"]),
        (None, "cpu", ["cpu"]),
        (None, "cuda:2", ["cuda:2"]),
    ],
)
def test_devices_by_name(gpu: str | None, device: str | None, found: list[str]) -> None:
    assert [str(one) for one in workforce.devices_of(gpu, device)] == found


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("0,0", "names a GPU twice; a GPU has one worker"),
        ("0,1,0", "twice"),
        ("0, 0", "twice"),
        ("0,00", "twice"),
        ("0,9", "no cuda:9"),
        ("0,", "no GPU"),
        ("x,y", "no cuda:x"),
    ],
)
def test_a_list_of_gpus_that_cannot_be(gpu: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = workforce.resolve_device

    def resolve(gpu: str | None, device: str | None) -> torch.device:
        if gpu == "":
            raise DeviceError("no GPU of an empty name")
        return real(gpu.lstrip("0") or "0" if gpu is not None else gpu, device)

    monkeypatch.setattr(workforce, "resolve_device", resolve)
    with pytest.raises(DeviceError, match=said):
        workforce.devices_of(gpu, None)


@pytest.mark.usefixtures("machine")
def test_the_gpus_of_a_study_are_of_one_kind() -> None:
    assert workforce.one_kind(gpus(0, 1)).device_kind == "H100"
    assert workforce.one_kind([CPU]).device_kind == "a CPU"
    said = r"several kinds \(cuda:0: H100, cuda:2: T4\); name those of one kind with --gpu"
    with pytest.raises(DeviceError, match=said):
        workforce.one_kind(gpus(0, 2))


@pytest.mark.parametrize(
    ("devices", "asked", "count"),
    [
        ([CPU], None, 1),
        ([CPU], 0, 0),
        ([CPU], 3, 3),
        (gpus(0), None, 1),
        (gpus(0), 1, 1),
        (gpus(0), 0, 0),
        (gpus(0, 1), None, 2),
        (gpus(0, 1), 2, 2),
    ],
)
def test_how_many_processes(devices: list[torch.device], asked: int | None, count: int) -> None:
    assert workforce.processes(devices, asked) == count


@pytest.mark.parametrize(
    ("devices", "asked", "said"),
    [
        (gpus(0), 2, "--workers 2 with 1 GPU: each GPU has one worker"),
        (gpus(0, 1), 1, "--workers 1 with 2 GPU"),
        (gpus(0, 1), 3, "name more GPUs"),
        (gpus(0, 1), 0, "--workers 0 works in this process, on one GPU; name one with --gpu"),
    ],
)
def test_a_gpu_has_one_worker(devices: list[torch.device], asked: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        workforce.processes(devices, asked)


@pytest.fixture
def config() -> StudyConfig:
    return load_study("quickstart", ["workers.hang_minutes=2.0"])


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[WorkerPlan]:
    """Of the pool that was made, without any process."""
    made: list[WorkerPlan] = []

    def init(pool: ProcessPool, factories: list[WorkerPlan], hang_seconds: float | None = None) -> None:
        made.extend(factories)
        pool.hang = hang_seconds  # type: ignore[attr-defined]

    monkeypatch.setattr(ProcessPool, "__init__", init)
    return made


def hired(config: StudyConfig, devices: list[torch.device], count: int) -> tuple[Any, list[str]]:
    return workforce.hire(config, devices, count, Path("there"), lambda trial, share: None)


def test_a_worker_a_gpu(config: StudyConfig, plans: list[WorkerPlan]) -> None:
    pool, names = hired(config, gpus(0, 2), 2)
    assert names == [plan.name for plan in plans] == ["cuda:0", "cuda:2"]
    assert [plan.factory.device for plan in plans] == names  # type: ignore[attr-defined]
    assert all(plan.factory.threads is None for plan in plans)  # type: ignore[attr-defined]
    assert all(plan.factory.run_dir == Path("there") for plan in plans)  # type: ignore[attr-defined]
    assert pool.hang == 120.0
    share = max(1, workforce._cores() // 2)
    assert [plan.environment for plan in plans] == [{"OMP_NUM_THREADS": str(share)}] * 2


def test_processes_share_the_cores(
    config: StudyConfig, plans: list[WorkerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    _, names = hired(config, [CPU], 3)
    assert names == ["cpu, worker 1", "cpu, worker 2", "cpu, worker 3"]
    assert [dict(plan.environment) for plan in plans] == [{"OMP_NUM_THREADS": "2"}] * 3
    assert {plan.factory.threads for plan in plans} == {8}  # type: ignore[attr-defined]
    plans.clear()
    hired(config, [CPU], 1)
    assert [dict(plan.environment) for plan in plans] == [{}]
    plans.clear()
    hired(config, [CPU], 20)
    assert {plan.environment["OMP_NUM_THREADS"] for plan in plans} == {"1"}


def test_no_process_at_all(config: StudyConfig) -> None:
    executor, names = hired(config, [CPU], 0)
    assert isinstance(executor, InlineExecutor)
    assert names == ["cpu, in this process"]
    executor.close()
