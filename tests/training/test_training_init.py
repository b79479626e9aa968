import math

import pytest
import torch
from torch import nn

from vnas.config import TrainingConfig
from vnas.nets import Architecture, Stage, Stem, build
from vnas.training import init
from vnas.training.init import initialise

IDENTITY = TrainingConfig(init="identity")
ARCH = Architecture(
    Stem(64, 4, 4, 0, 2),
    (Stage(96, stride=2, series=1), Stage(32, stride=1, series=2), Stage(32, stride=1, series=0)),
    num_classes=10,
    image_size=32,
)


def test_the_default_is_what_the_net_draws() -> None:
    torch.manual_seed(3)
    drawn = build(ARCH).state_dict()
    torch.manual_seed(3)
    net = build(ARCH)
    initialise(net, TrainingConfig())
    assert all(torch.equal(value, drawn[name]) for name, value in net.state_dict().items())


def test_without_noise_stages_hand_on_the_channels_they_share_and_rectify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_NOISE", 0.0)
    net = build(ARCH)
    initialise(net, IDENTITY)
    net.eval().set_slope(1.0)
    x = torch.randn(2, 64, 8, 8)
    pooled = nn.functional.max_pool2d(x, 2).relu()
    torch.testing.assert_close(net.stages[0](x)[:, :64], pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.stages[:2](x), pooled[:, :32], rtol=1e-4, atol=1e-4)
    logits = torch.randn(2, 10, 1, 1)
    fc = net.head.fc
    assert isinstance(fc, nn.Module)
    torch.testing.assert_close(fc.get_submodule("conv2")(logits), logits)


def test_random_kernels_keep_the_variance_of_their_input() -> None:
    torch.manual_seed(0)
    net = build(ARCH)
    initialise(net, IDENTITY)
    for name, shape in (("stem.pair.conv1", (64, 3, 32, 32)), ("head.fc.conv1", (4096, 32, 1, 1))):
        out = net.get_submodule(name)(torch.randn(shape))
        assert out.var().item() == pytest.approx(1.0, abs=0.25)
        # Nothing is handed on: what would lie on the diagonal is 0 in the mean.
        kernel = net.get_parameter(f"{name}.weight")
        middle = kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2]
        assert middle.diagonal().mean().item() == pytest.approx(0.0, abs=0.3)
    fresh = net.get_parameter("stages.0.pair.conv2.weight")[64:]  # channels that the stage adds
    assert fresh.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.1)


def test_an_identity_has_a_little_noise_on_it() -> None:
    torch.manual_seed(0)
    net = build(ARCH)
    initialise(net, IDENTITY)
    weight = net.get_parameter("stages.0.pair.conv1.weight")[:, :, 0, 0]
    assert (weight - torch.eye(64)).std().item() == pytest.approx(0.2 / 8, rel=0.1)
    series = net.get_parameter("stem.act.conv.weight").clone()
    series[:, 0, 2, 2] -= 1.0
    assert series.std().item() == pytest.approx(0.2 / 5, rel=0.1)
