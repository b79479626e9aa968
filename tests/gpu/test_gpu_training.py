import pytest
import torch

pytest.importorskip("pydantic", reason="training is configured with pydantic")

from vnas.config import TrainingConfig
from vnas.nets import Architecture, Stage, Stem, build
from vnas.training import Data, Progress, evaluate, fit, open_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
SMALL = Architecture(
    Stem(16, kernel=4, stride=4, padding=0, series=1),
    (Stage(32, series=1), Stage(64, series=1), Stage(64, stride=1, series=1)),
    in_chans=1,
    image_size=32,
    num_classes=10,
)


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amp": False},
        {"amp": "fp16"},
        {"channels_last": False},
        {"optimizer": "sgd", "lr": 0.1},
        {"optimizer": "lamb", "lr": 2e-2, "loss": "bce"},
        {"ema_decay": 0.9, "clip_grad": 1.0},
        {"merge": True, "ema_decay": 0.9},
        {"mixup": 0.2, "cutmix": 1.0},
        {"crop_padding": 2, "random_erasing": 0.25},
    ],
    ids=str,
)
def test_every_option_learns_the_digits(digits: Data, options: dict[str, object]) -> None:
    config = TrainingConfig.model_validate({"flip": False, "epochs": 12, **options})
    told: list[Progress] = []
    result = fit(SMALL, digits, config, seed=0, device=CUDA, progress=told.append)
    assert result.val_top1 > 60
    assert result.val_top1 == pytest.approx(result.val_top1_training_form, abs=1.4)
    assert result.fused is not None
    assert next(result.fused.parameters()).device == CUDA
    assert [p.step for p in told] == [10 * epoch for epoch in range(1, 13)]
    assert told[-1].slope_min == 1.0


def test_the_set_stays_on_the_device(digits: Data) -> None:
    loader = digits.training_loader(TrainingConfig(), 32, seed=0, device=CUDA)
    assert {(images.device, labels.device) for images, labels in loader} == {(CUDA, CUDA)}
    assert digits._in_memory("train", 32, CUDA)[0].device == CUDA


def test_streaming_arrives_on_the_device() -> None:
    config = TrainingConfig(flip=False, epochs=2, rand_augment="rand-m3-mstd0.5-inc1", random_erasing=0.2)
    data = open_data("digits")
    result = fit(SMALL, data, config, seed=0, device=CUDA)
    assert result.pipeline == "streaming"


def test_a_loss_that_is_not_finite_is_named_by_its_step(digits: Data) -> None:
    from vnas.errors import NonFiniteLossError

    net, calls = build(SMALL), []

    def poison(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("inf") if len(calls) == 4 else output

    net.register_forward_hook(poison)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(net, digits, TrainingConfig(flip=False, epochs=2), seed=0, device=CUDA)
    assert (caught.value.epoch, caught.value.step) == (0, 3)


def test_the_gpu_agrees_with_the_cpu_on_an_evaluation(digits: Data) -> None:
    result = fit(SMALL, digits, TrainingConfig(flip=False, epochs=12), seed=0, device=CUDA)
    assert result.fused is not None
    cpu = torch.device("cpu")
    on_cpu = evaluate(result.fused.to(cpu), digits.loader("validation", 32, device=cpu), cpu)
    assert on_cpu == pytest.approx(result.val_top1, abs=0.7)
