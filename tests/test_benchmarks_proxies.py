"""Zero-cost proxies against what algebra says of nets that are small enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.proxies import PROXIES, gradient_norm, naswot, synflow
from vnas.nets import Architecture, Stage, Stem, VanillaNet, build, cost
from vnas.nets.activation import SeriesActivation, SlopedActivation

# No padding and no neighbours: every feature map of a constant image is constant.
PLAIN = Architecture(
    Stem(5, kernel=4, stride=4, padding=0, series=0),
    (Stage(7, stride=2, series=0), Stage(6, stride=1, series=0)),
    in_chans=2,
    image_size=16,
    num_classes=3,
)


def net(arch: Architecture = PLAIN, seed: int = 0) -> VanillaNet:
    torch.manual_seed(seed)
    return build(arch)


def batch(arch: Architecture = PLAIN, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, arch.in_chans, arch.image_size, arch.image_size, generator=generator)
    return images, torch.randint(arch.num_classes, (count,), generator=generator)


def test_naswot_of_three_images_by_hand() -> None:
    # Bits 10, 11 and 01 agree in 1, 0 and 1 of 2: det [[2, 1, 0], [1, 2, 1], [0, 1, 2]] = 4.
    images = torch.tensor([[1.0, -1.0], [1.0, 2.0], [-3.0, 0.5]]).view(3, 2, 1, 1)
    assert naswot(SlopedActivation("relu"), images) == pytest.approx(math.log(4.0))


def test_naswot_counts_the_bits_of_every_activation() -> None:
    # Twice the same bits: K doubles, so its determinant grows by 2^3.
    images = torch.tensor([[1.0, -1.0], [1.0, 2.0], [-3.0, 0.5]]).view(3, 2, 1, 1)
    kept = SlopedActivation("relu")
    kept.slope.fill_(1.0)  # the identity, so that the second one sees the same signs
    assert naswot(nn.Sequential(kept, SlopedActivation("relu")), images) == pytest.approx(math.log(4.0 * 2**3))


def test_naswot_sees_a_series_activation_behind_its_shift() -> None:
    images = torch.tensor([[1.0, -1.0], [1.0, 2.0], [-3.0, 0.5]]).view(3, 2, 1, 1)
    activation = SeriesActivation(2, 0, "relu", shift=True)
    assert naswot(activation, images) == pytest.approx(math.log(4.0))
    assert activation.shift is not None
    with torch.no_grad():
        activation.shift.fill_(10.0)  # everything is on: all agree, and K is singular
    assert naswot(activation, images) == -math.inf


def test_naswot_tells_a_net_apart_that_treats_images_alike() -> None:
    images, labels = batch()
    assert PROXIES["naswot"](net(), images, labels) == naswot(net(), images) > 0.0
    same = images[:1].expand_as(images)
    assert naswot(net(), same) < naswot(net(), images)


def test_synflow_is_the_sum_over_paths_once_for_each_convolution() -> None:
    plain = net()
    # R is linear in the weights of each convolution, so each of them adds R to the sum of w dR/dw.
    channels = np.ones(PLAIN.in_chans)
    convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        weight = np.abs(conv.weight.detach().double().numpy()).sum(axis=(2, 3))
        channels = weight[:, 0] * channels if conv.groups > 1 else weight @ channels
    assert len(convs) == 4 * 2 + 3  # pairs of stem, stages and head; depthwise ones of stem and stages
    # Each is followed by a norm that divides by the root of 1 + epsilon, but for the last.
    norms = -0.5 * 10 * math.log1p(1e-6)
    assert synflow(plain) == pytest.approx(math.log(len(convs) * channels.sum()) + norms, rel=1e-12)


def test_synflow_does_not_mind_signs_and_grows_with_the_weights() -> None:
    plain = net()
    before = synflow(plain)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.neg_()
    # Batch norms' weights were 1 and are -1: their absolute value counts too.
    assert synflow(plain) == pytest.approx(before)
    with torch.no_grad():
        plain.stem.pair.conv1.weight.mul_(3.0)
    assert synflow(plain) == pytest.approx(before + math.log(3.0))


def test_synflow_of_a_net_without_a_path_is_minus_infinity() -> None:
    plain = net()
    with torch.no_grad():
        plain.stem.pair.conv1.weight.zero_()
    assert synflow(plain) == -math.inf


def test_gradient_norm_of_a_linear_classifier_by_hand() -> None:
    # All weights zero: p = 1/2 of each class; dL/dW = mean (p - y) x', dL/db = mean (p - y).
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
    images = torch.tensor([[3.0, 4.0], [3.0, 4.0]]).view(2, 2, 1, 1)
    # Both of class 0: p - y = (-1/2, 1/2), so |dW| = 5 / sqrt 2 and |db| = 1 / sqrt 2.
    expected = math.sqrt(25 / 2 + 1 / 2)
    assert gradient_norm(classifier, images, torch.tensor([0, 0])) == pytest.approx(expected)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_leaves_the_net_and_the_random_numbers_as_they_were(name: str) -> None:
    arch = Architecture(PLAIN.stem, PLAIN.stages, in_chans=2, image_size=16, num_classes=3, dropout=0.5)
    some, (images, labels) = net(arch), batch(arch)
    weights = {key: value.clone() for key, value in some.state_dict().items()}
    stream = torch.random.get_rng_state()
    first = PROXIES[name](some, images, labels)
    assert PROXIES[name](some, images, labels) == first
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert some.training
    assert all(parameter.grad is None for parameter in some.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in some.state_dict().items())


def test_what_needs_no_weights_counts_the_fused_net() -> None:
    images, labels = batch()
    price = cost(PLAIN)
    found = {name: PROXIES[name](net(), images, labels) for name in ("parameters", "MACs", "depth")}
    assert found == {"parameters": price.params, "MACs": price.macs, "depth": 4}
