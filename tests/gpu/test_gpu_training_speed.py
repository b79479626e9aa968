"""What makes training steps fast on a GPU, and what happens there when memory runs out. Nothing here is timed."""

import copy
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("pydantic", reason="training is configured with pydantic")

from vnas.config import TrainingConfig
from vnas.nets import Architecture, Stage, Stem, VanillaNet, build, merge
from vnas.profiler.runtimes.precision import tf32
from vnas.training import Checkpoint, Data, Progress, fit, open_data, seeded
from vnas.training.precision import Precision
from vnas.training.speed.choosing import Speed, choose_speed
from vnas.training.speed.compiling import Compiled, why_not
from vnas.training.speed.measuring import COMPILED, RACES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
SMALL = Architecture(
    Stem(16, kernel=4, stride=4, padding=0, series=1),
    (Stage(32, series=1), Stage(64, stride=1, series=1)),
    in_chans=1,
    image_size=32,
    num_classes=10,
)
LARGE_MAPS = Architecture(
    Stem(256, kernel=2, stride=2, padding=0, series=1),
    (Stage(256, series=1),),
    in_chans=1,
    image_size=32,
    num_classes=10,
)
# Unit roundoff of bfloat16 and float16, with room for sums and for values on the other side of a kink.
TOLERANCE = {"bf16": 2.0**-5, "fp16": 2.0**-8}
FIXED: dict[str, object] = {"channels_last": True, "amp": False, "compile": False, "flip": False}

bf16_or_skip = pytest.mark.skipif(
    not torch.cuda.is_available() or not torch.cuda.is_bf16_supported(including_emulation=False),
    reason="this GPU has no bfloat16",
)


def config(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate({**FIXED, **options})


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits")


@pytest.fixture
def ieee() -> Iterator[None]:
    """Float32 that is float32: no TF32 beneath it."""
    with tf32(False):
        yield


def batch(arch: Architecture = SMALL, count: int = 64) -> tuple[Tensor, Tensor]:
    shape = (count, arch.in_chans, arch.image_size, arch.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.to(CUDA), (torch.arange(count) % 10).to(CUDA)


def made(dtype: torch.dtype = torch.float32) -> VanillaNet:
    """With weights of a size that training brings about: those of a fresh net vanish behind the head."""
    with seeded(1, CUDA):
        net = build(SMALL, device=CUDA, dtype=dtype).train()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
    return net


# --- mixed precision


@pytest.mark.parametrize("amp", [pytest.param("bf16", marks=bf16_or_skip), "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.usefixtures("ieee")
def test_gradients_in_mixed_precision_are_close_to_those_in_float32(
    amp: Literal["bf16", "fp16"], channels_last: bool, slope: float
) -> None:
    images, labels = batch()
    losses, gradients = [], []
    for speed in (Speed(False, "off", False), Speed(channels_last, amp, False)):
        layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        net = made().to(memory_format=layout)
        net.set_slope(slope)
        precision, steps = Precision(speed, CUDA), 0
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        before = torch.cat([weight.detach().flatten() for weight in net.parameters()])
        moved = torch.zeros_like(before)
        while not moved.any():  # float16 skips steps until the scale of its gradients has come down
            with precision.autocast():
                loss = F.cross_entropy(net(images.contiguous(memory_format=layout)), labels)
            precision.backward(loss)
            precision.step(net, optimizer, None)
            moved = before - torch.cat([weight.detach().flatten() for weight in net.parameters()])
            steps += 1
            assert steps < 20
        assert moved.isfinite().all()
        losses.append(loss.item())
        gradients.append(moved)
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[amp])
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 1.0 - 2 * TOLERANCE[amp]
    assert gradients[1].norm().item() == pytest.approx(gradients[0].norm().item(), rel=4 * TOLERANCE[amp])


@pytest.mark.parametrize("amp", [pytest.param("bf16", marks=bf16_or_skip), "fp16"])
def test_a_run_in_mixed_precision_stays_finite_and_learns(digits: Data, amp: str) -> None:
    told: list[Progress] = []
    options = config(amp=amp, epochs=12, clip_grad=1.0)
    result = fit(SMALL, digits, options, seed=0, device=CUDA, progress=told.append)
    assert result.speed == Speed(True, amp, False)  # type: ignore[arg-type]
    assert result.val_top1 > 60
    assert result.fused is not None
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in result.fused.parameters())
    assert result.val_top1 == pytest.approx(result.val_top1_training_form, abs=1.4)


def test_a_gpu_without_bfloat16_uses_float16(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    result = fit(SMALL, digits, config(amp=True, epochs=1), seed=0, device=CUDA)
    assert result.speed == Speed(True, "fp16", False)


# --- compiling


@pytest.mark.skipif(
    torch.cuda.is_available() and why_not(CUDA) is not None, reason="torch.compile needs triton on a GPU"
)
@pytest.mark.filterwarnings("default")  # of torch's compiler about itself
@pytest.mark.usefixtures("ieee")
def test_a_compiled_net_trains_as_the_net_itself_and_is_not_compiled_again_for_another_lambda() -> None:
    from torch._dynamo.utils import counters

    net, notes = made(torch.float64), list[str]()
    plain = copy.deepcopy(net)
    compiled = Compiled(net, notes)
    optimizers = [torch.optim.SGD(each.parameters(), 0.01) for each in (net, plain)]
    images, labels = batch(count=16)
    before = counters["stats"]["unique_graphs"]
    for lambda_ in (0.0, 0.1, 0.35, 0.7, 0.99, 1.0):
        losses = []
        for each, call, optimizer in zip((net, plain), (compiled, plain), optimizers, strict=True):
            each.set_slope(lambda_)
            loss = F.cross_entropy(call(images.double()), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-9), lambda_
    assert counters["stats"]["unique_graphs"] == before + 1
    assert notes == []
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-7, atol=1e-9, msg=name)


# --- the choice


def test_measuring_leaves_weights_random_numbers_and_memory_as_they_were() -> None:
    RACES.clear()
    COMPILED.clear()
    with seeded(0, CUDA):
        net = build(SMALL).to(CUDA)
    given, weights = batch(), copy.deepcopy(net.state_dict())
    choose_speed(net, TrainingConfig(), CUDA, given, 20_000)
    RACES.clear()
    gc.collect()
    allocated, stream = torch.cuda.memory_allocated(CUDA), torch.cuda.get_rng_state(CUDA)
    speed, reason = choose_speed(net, TrainingConfig(), CUDA, given, 20_000)
    assert reason.startswith(f"{speed}: measured in ")
    assert "channels_last" in reason
    assert "not compiled, " in reason
    gc.collect()
    assert torch.cuda.memory_allocated(CUDA) <= allocated  # what libraries take for good, the first time has taken
    assert torch.cuda.get_rng_state(CUDA).equal(stream)
    assert all(value.equal(weights[name]) for name, value in net.state_dict().items())
    assert choose_speed(net, TrainingConfig(), CUDA, given, 20_000) == (speed, reason)


def test_a_merged_net_can_be_measured() -> None:
    net = build(SMALL)
    net.set_slope(1.0)
    speed, _ = choose_speed(merge(net).to(CUDA), TrainingConfig(), CUDA, batch(), 20_000)
    assert not speed.compile


def test_a_run_uses_the_choice_and_goes_on_with_it(
    digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    options = TrainingConfig(flip=False, epochs=4, warmup_epochs=0.0)

    class StopError(Exception):
        pass

    def stop(where: Progress) -> None:
        if where.epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        fit(SMALL, digits, options, seed=0, device=CUDA, progress=stop, checkpoint=Checkpoint(path, 0.0))
    recorded = torch.load(path, weights_only=True)["state"]["speed"]
    monkeypatch.setattr(sys.modules["vnas.training.fit"], "choose_speed", None)
    result = fit(SMALL, digits, options, seed=0, device=CUDA, checkpoint=Checkpoint(path))
    assert result.speed == Speed(**recorded)


# --- memory


@pytest.fixture
def little_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    torch.cuda.empty_cache()


def allow(mib: float) -> None:
    """Let torch have so much memory of the GPU, and no more: what goes beyond is a real out-of-memory error."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(mib * 2**20 / torch.cuda.mem_get_info(CUDA)[1], CUDA)


def peak_mib(batch_size: int, digits: Data) -> float:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(CUDA)
    fit(LARGE_MAPS, digits, config(epochs=1, batch_size=batch_size), seed=0, device=CUDA)
    return torch.cuda.max_memory_reserved(CUDA) / 2**20


@pytest.mark.usefixtures("little_memory")
def test_a_batch_that_does_not_fit_is_halved_and_that_is_said(digits: Data) -> None:
    whole, quarter = peak_mib(1024, digits), peak_mib(256, digits)
    assert whole > 1.5 * quarter
    told: list[Progress] = []
    allow((whole + 2 * quarter) / 3)
    result = fit(LARGE_MAPS, digits, config(epochs=3, batch_size=1024), seed=0, device=CUDA, progress=told.append)
    assert result.micro_batch in (512, 256, 128)
    assert result.notes[0].startswith("out of memory on cuda:0: from step 0 on, batches of 1024 are cut into 2 parts")
    assert [where.step for where in told] == [1, 2, 3]
    assert result.fused is not None


@pytest.mark.usefixtures("little_memory")
def test_measuring_takes_fewer_images_where_memory_runs_out(digits: Data) -> None:
    RACES.clear()
    quarter = peak_mib(256, digits)
    net = build(LARGE_MAPS).to(CUDA)
    given = batch(LARGE_MAPS, 1024)
    allow(1.5 * quarter)
    speed, reason = choose_speed(net, TrainingConfig(compile=False), CUDA, given, 1_000)
    assert reason.startswith(f"{speed}: measured in ") or "memory is too small" in reason
    assert "with 1024 images" not in reason


# --- seeds


def test_a_seed_begins_the_same_run_again(digits: Data) -> None:
    losses = []
    for seed in (3, 3, 4):
        told: list[Progress] = []
        options = config(epochs=1, crop_padding=2, batch_size=1000, mixup=0.2)
        fit(SMALL, digits, options, seed=seed, device=CUDA, progress=told.append)
        losses.append(told[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
