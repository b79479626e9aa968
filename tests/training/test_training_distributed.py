import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vnas.errors import UsageError
from vnas.nets import Architecture, Stage, Stem, build, fuse, merge
from vnas.training.command.distributed import (
    Rank,
    device_name,
    in_environment,
    joined,
    rank_of,
    share_norms,
    share_of_batch,
    unshare_norms,
    wrapper,
)

needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
ROOT = Path(__file__).parents[2]
ALONE = Rank()
SECOND = Rank(rank=1, world=2, local_rank=1)


def started_by(rank: int | str, world: int | str, local_rank: int | str) -> dict[str, str]:
    return {"RANK": f"{rank}", "WORLD_SIZE": f"{world}", "LOCAL_RANK": f"{local_rank}"}


def test_torchruns_variables_tell_the_rank() -> None:
    assert rank_of(started_by(5, 8, 1)) == Rank(5, 8, 1)
    assert rank_of({"RANK": "1", "WORLD_SIZE": "2"}) == Rank(1, 2, 1)
    assert rank_of(started_by(0, 1, 0)) == ALONE
    assert SECOND.shard == (1, 2)
    assert ALONE.shard is None
    assert (SECOND.first, ALONE.first) == (False, True)


@pytest.mark.parametrize("environment", [{}, {"RANK": "3"}, {"WORLD_SIZE": "2"}, {"LOCAL_RANK": "1"}])
def test_without_torchrun_a_process_is_alone(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_of(environment) is None
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert in_environment() == ALONE


@pytest.mark.parametrize(("rank", "world"), [("a", 2), (-1, 2), (2, 2), (0, 0)])
def test_variables_that_do_not_fit_together_are_refused(rank: int | str, world: int) -> None:
    with pytest.raises(UsageError):
        rank_of(started_by(rank, world, 0))


def test_each_process_takes_the_gpu_of_its_number() -> None:
    assert device_name(SECOND, None, None, gpus=2) == "cuda:1"
    assert device_name(SECOND, None, "cuda", gpus=2) == "cuda:1"
    assert device_name(SECOND, None, None, gpus=0) == "cpu"
    assert device_name(SECOND, None, "cpu", gpus=2) == "cpu"
    assert device_name(ALONE, None, "cuda:3", gpus=4) == "cuda:3"
    assert device_name(ALONE, "0", None, gpus=4) is None


@pytest.mark.parametrize(("gpu", "device"), [("0", None), (None, "cuda:0")])
def test_one_device_for_several_processes_is_refused(gpu: str | None, device: str | None) -> None:
    with pytest.raises(UsageError, match="names one device for 2 processes; leave it out"):
        device_name(SECOND, gpu, device, gpus=2)


def test_the_batch_is_the_whole_one() -> None:
    assert share_of_batch(1024, 8) == 128
    assert share_of_batch(3, 1) == 3


@pytest.mark.parametrize(("batch", "world", "fitting"), [(1000, 3, 999), (100, 8, 96), (2, 2, 4), (8, 8, 16)])
def test_a_batch_that_cannot_be_shared_names_one_that_can(batch: int, world: int, fitting: int) -> None:
    with pytest.raises(UsageError, match=f"training.batch_size={fitting}$"):
        share_of_batch(batch, world)
    assert share_of_batch(fitting, world) >= 2


def test_a_process_that_is_alone_joins_nobody_and_wraps_nothing() -> None:
    net = torch.nn.Linear(1, 1)
    with joined(ALONE, torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert wrapper(ALONE, torch.device("cpu"))(net) is net


def test_synchronised_norms_need_gpus() -> None:
    with pytest.raises(UsageError, match="--sync-norms needs GPUs"):
        wrapper(SECOND, torch.device("cpu"), sync_norms=True)


SHARED = """
import sys, torch
from vnas.nets import Architecture, Stage, Stem, build
from vnas.training import open_data

OUT, CPU = sys.argv[1], torch.device("cpu")
ARCH = Architecture(
    Stem(8, kernel=4, stride=4, series=1), (Stage(16, series=1), Stage(16, stride=1, series=0)),
    in_chans=1, image_size=16, num_classes=10,
)

def start(seed):
    torch.manual_seed(seed)
    net = build(ARCH)
    net.set_slope(0.5)
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            # Larger than the fresh statistics, or the gradients would be lost in rounding.
            norm.running_var.fill_(0.05)
    # With given statistics the gradient is a mean over images, so that of a batch is the mean of those of its halves.
    return net.eval()

def batches():
    images, labels = next(iter(open_data("digits").loader("train", 16, device=CPU, batch_size=192)))
    return [(images[i : i + 64], labels[i : i + 64]) for i in (0, 64, 128)]

def train(net, shard):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    gradients = None
    for step, (images, labels) in enumerate(batches()):
        if shard is not None:
            rank, world = shard
            images, labels = images[rank::world], labels[rank::world]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        if step == 0:
            gradients = [parameter.grad.clone() for parameter in net.parameters()]
        optimizer.step()
    return gradients
"""

WORKER = (
    SHARED
    + """
import os
from vnas.training.command.cli import main
from vnas.training.command.distributed import in_environment, joined, wrapper

rank = in_environment()
with joined(rank, CPU):
    net = start(seed=rank.rank)  # what differs at the start must not at the end
    gradients = train(wrapper(rank, CPU)(net), rank.shard)
    torch.save({"gradients": gradients, "weights": net.state_dict()}, f"{OUT}/{rank.rank}.pt")

os.environ["MASTER_PORT"] = os.environ["OTHER_PORT"]
with open("net.json", "w") as file:
    file.write(ARCH.to_json())
typed = ["net.json", "--device", "cpu", "--epochs", "2", "--out", "run", "--set", "training.batch_size=128"]
sys.exit(main(typed))
"""
)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where two processes worked that were started as torchrun starts them, and what each said."""
    folder = tmp_path_factory.mktemp("pair")
    there = {**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    there |= {"MASTER_PORT": f"{free_port()}", "OTHER_PORT": f"{free_port()}", "PYTHONPATH": f"{ROOT}"}
    processes = []
    for rank in range(2):
        (folder / f"{rank}").mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(folder)],
                cwd=folder / f"{rank}",
                env=there | started_by(rank, 2, rank),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return folder, said


@needs_distributed
def test_two_processes_take_the_steps_of_one_with_the_whole_batch(pair: tuple[Path, list[str]]) -> None:
    first, second = (torch.load(pair[0] / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone: dict[str, Any] = {}
    exec(SHARED.replace("sys.argv[1]", "''") + "\nnet = start(seed=0)\ngradients = train(net, None)\n", alone)
    assert max(float(gradient.abs().max()) for gradient in alone["gradients"]) > 1e-3
    for ours, theirs in zip(first["gradients"], alone["gradients"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, weight in alone["net"].state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-5, atol=1e-6)


@needs_distributed
def test_the_command_trains_in_two_processes_and_the_first_one_speaks_and_writes(pair: tuple[Path, list[str]]) -> None:
    folder, (first, second) = pair
    assert second == ""
    assert "batches of 128, 64 images of each in each of 2 processes" in first
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["net.json"]
    told = json.loads((folder / "0" / "run" / "result.json").read_text())
    assert told["processes"] == 2
    # 1,151 training images: eight full batches of 128 an epoch, whoever takes which part of them.
    assert told["training_run"]["steps"] == 16
    assert told["evaluation"]["validation"]["logit_difference"] < 1e-4


def test_norms_are_shared_in_place_and_still_fuse() -> None:
    net = build(Architecture(Stem(4, series=0), (Stage(4, series=0),), image_size=16, num_classes=3)).eval()
    net.set_slope(1.0)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    parameters = list(net.parameters())
    expected, before, merged = net(images), fuse(net)(images), fuse(merge(net))(images)
    share_norms(net)
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules()) == 7
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert torch.equal(net(images), expected)
    assert torch.equal(fuse(net)(images), before)
    assert torch.equal(fuse(merge(net))(images), merged)
    unshare_norms(net)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules())
    assert torch.equal(net(images), expected)
