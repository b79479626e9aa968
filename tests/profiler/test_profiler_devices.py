from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vnas.errors import EXIT_NO_DEVICE, DeviceError, UsageError
from vnas.profiler import describe_devices, resolve_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cpu_is_taken() -> None:
    assert resolve_device() == torch.device("cpu")
    assert resolve_device(device="cpu") == torch.device("cpu")
    assert resolve_device(device=torch.device("cpu")) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_with_a_gpu_the_first_is_taken() -> None:
    assert resolve_device() == torch.device("cuda", 0)
    assert resolve_device(device="cuda") == torch.device("cuda", 0)
    assert resolve_device(gpu=1) == resolve_device(device="cuda:1") == torch.device("cuda", 1)
    assert resolve_device(gpu="1") == torch.device("cuda", 1)
    assert resolve_device(device="cpu") == torch.device("cpu")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("asked", [{"gpu": 0}, {"device": "cuda"}, {"device": "cuda:0"}])
def test_a_gpu_that_is_not_there_is_exit_3_and_lists_the_devices(asked: dict[str, object]) -> None:
    with pytest.raises(DeviceError, match="there is no such GPU") as got:
        resolve_device(**asked)  # type: ignore[arg-type]
    assert got.value.exit_code == EXIT_NO_DEVICE
    assert describe_devices().splitlines()[0] in str(got.value)
    assert "no GPU: " in str(got.value)
    assert "--device cpu" in str(got.value)


@pytest.mark.usefixtures("two_gpus")
def test_an_index_past_the_last_lists_those_there_are() -> None:
    with pytest.raises(DeviceError, match=r"--gpu 7: there is no such GPU(.|\n)*gpu 0  Card 0  uuid-0\n.*gpu 1 "):
        resolve_device(gpu=7)
    with pytest.raises(DeviceError, match="device cuda:7: there is no such GPU"):
        resolve_device(device="cuda:7")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("gpu", [-1, "-1", "x", "0,1", "", "1.0", True])
def test_a_malformed_index(gpu: int | str) -> None:
    with pytest.raises(DeviceError, match="a GPU is named by its index"):
        resolve_device(gpu=gpu)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "mps", ""])
def test_a_device_of_no_known_name(name: str) -> None:
    with pytest.raises(DeviceError, match="allowed are cpu, cuda and cuda:N"):
        resolve_device(device=name)


def test_both_are_too_many() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        resolve_device(gpu=0, device="cpu")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("cuda", "reason"), [(None, "has no CUDA"), ("13.0", "finds no NVIDIA driver")])
def test_the_list_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, cuda: str | None, reason: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    cpu, none = describe_devices().splitlines()
    assert cpu.startswith("cpu    ")
    assert reason in none
