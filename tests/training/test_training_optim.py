import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vnas.config import TrainingConfig
from vnas.nets import Architecture, Stage, Stem, build, merge
from vnas.training.norms import reestimate_norms
from vnas.training.optim import carry_state, learning_rate, make_loss, make_optimizer, set_learning_rate


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 20), st.integers(1, 30), st.floats(0, 30), st.sampled_from(["cosine", "linear"]))
def test_the_learning_rate_rises_then_falls_to_its_minimum(
    epochs: int, per_epoch: int, warmup: float, shape: Literal["cosine", "linear"]
) -> None:
    config = TrainingConfig(lr=1.0, min_lr=0.01, warmup_epochs=warmup, lr_shape=shape)
    total = epochs * per_epoch
    rates = [learning_rate(config, step, per_epoch, total) for step in range(total)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1.0 for rate in rates)
    assert rates[peak] == 1.0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak == min(round(warmup * per_epoch), total // 2)
    if total - peak > 1:
        assert rates[-1] == pytest.approx(0.01)


def test_the_learning_rate_is_the_formula() -> None:
    config = TrainingConfig(lr=0.4, min_lr=0.0, warmup_epochs=1)
    assert [learning_rate(config, step, 4, 13) for step in range(4)] == pytest.approx([0.08, 0.16, 0.24, 0.32])
    for step in range(4, 13):
        expected = 0.2 * (1 + math.cos(math.pi * (step - 4) / 8))
        assert learning_rate(config, step, 4, 13) == pytest.approx(expected)
    line = config.model_copy(update={"lr_shape": "linear", "min_lr": 0.08})
    rates = [learning_rate(line, step, 4, 13) for step in range(4, 13)]
    assert rates == pytest.approx([0.4, 0.36, 0.32, 0.28, 0.24, 0.2, 0.16, 0.12, 0.08])


def toy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    net = toy()
    optimizer = make_optimizer(net, TrainingConfig.model_validate({"optimizer": name, "weight_decay": 0.5}))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in net.parameters():
        assert decay[id(parameter)] == (0.5 if parameter.ndim > 1 else 0.0)


def test_adamw_is_the_textbook_one() -> None:
    net = toy()
    config = TrainingConfig(lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(net, config)
    weights = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    first, second = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for step in range(1, 6):
        lr = 0.01 / step
        set_learning_rate(optimizer, lr)
        net(torch.randn(8, 1, 8, 8)).square().mean().backward()
        for name, parameter in net.named_parameters():
            gradient = parameter.grad.double()  # type: ignore[union-attr]
            weight = weights[name]
            if weight.ndim > 1:
                weight *= 1 - lr * 0.1
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, variance = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            weight -= lr * mean / (variance.sqrt() + 1e-8)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.double(), weights[name], atol=1e-5, rtol=1e-4)


def test_sgd_is_nesterovs() -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    optimizer = make_optimizer(net, TrainingConfig(optimizer="sgd", lr=0.1, momentum=0.5, weight_decay=0.0))
    weight, velocity = 1.0, 0.0
    for _ in range(4):
        (0.5 * net.weight.square()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        velocity = 0.5 * velocity + weight
        weight -= 0.1 * (weight + 0.5 * velocity)
        assert net.weight.item() == pytest.approx(weight)


def test_layer_decay_scales_every_rate() -> None:
    net = build(
        Architecture(Stem(4, 4, 4, 0, 0), (Stage(4, series=0), Stage(4, series=0)), num_classes=3, image_size=32)
    )
    optimizer = make_optimizer(net, TrainingConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    stem = {rate[id(p)] for p in net.stem.parameters()}
    head = {rate[id(p)] for p in net.head.parameters()}
    assert len(stem) == len(head) == 1
    assert stem.pop() < head.pop() == 1.0


def test_layer_decay_is_the_papers_for_each_whole_layer() -> None:
    """VanillaNet-6: the head at the full rate, .8 of it for each layer before, .8^5 at the stem."""
    net = build(Architecture.named("vanillanet_6", num_classes=10, image_size=64))
    optimizer = make_optimizer(net, TrainingConfig(layer_decay=0.8))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    layers = [net.head, *reversed(list(net.stages)), net.stem]
    assert len(layers) == 6
    for depth, layer in enumerate(layers):
        assert [rate[id(p)] for p in layer.parameters()] == pytest.approx([0.8**depth] * len(list(layer.parameters())))


def test_a_merge_keeps_the_averages_of_what_it_leaves_alone() -> None:
    arch = Architecture(Stem(4, 4, 4, 0, 1), (Stage(6, series=1),), num_classes=3, image_size=16)
    net = build(arch)
    config = TrainingConfig()
    before = make_optimizer(net, config)
    net(torch.randn(4, 3, 16, 16)).square().mean().backward()
    before.step()
    net.set_slope(1.0)
    merged = merge(net)
    after = make_optimizer(merged, config)
    carry_state(before, net, after, merged)
    old, new = dict(net.named_parameters()), dict(merged.named_parameters())
    fresh = {name for name, parameter in new.items() if parameter not in after.state}
    assert fresh == {f"{pair}.conv.{part}" for pair in net.pairs for part in ("weight", "bias")}
    for name, source in (("stem.pair.bn.bias", "stem.pair.bn2.bias"), ("stem.act.conv.weight",) * 2):
        assert torch.equal(after.state[new[name]]["exp_avg"], before.state[old[source]]["exp_avg"])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_their_formulas(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    soft = torch.full((6, 5), smoothing / 5)
    soft[torch.arange(6), labels] += 1 - smoothing
    crossed = -(soft * logits.log_softmax(1)).sum(1).mean()
    binary = -(soft * logits.sigmoid().log() + (1 - soft) * (-logits).sigmoid().log()).mean()
    plain = TrainingConfig(label_smoothing=smoothing)
    torch.testing.assert_close(make_loss(plain)(logits, labels), crossed)
    bce = plain.model_copy(update={"loss": "bce"})
    torch.testing.assert_close(make_loss(bce)(logits, labels), binary)
    for loss, expected in (("cross_entropy", crossed), ("bce", binary)):
        mixed = plain.model_copy(update={"loss": loss, "mixup": 0.2})
        torch.testing.assert_close(make_loss(mixed)(logits, soft), expected)


def test_norm_statistics_are_the_means_over_the_batches() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.9)).train()
    batches = [(torch.randn(4, 2, 3, 3) * 3 + 1, torch.zeros(4)) for _ in range(5)]
    norm = net[0]
    assert isinstance(norm, nn.BatchNorm2d)
    reestimate_norms(net, batches, 3)
    used = torch.stack([images for images, _ in batches[:3]])
    torch.testing.assert_close(norm.running_mean, used.mean((1, 3, 4)).mean(0))
    torch.testing.assert_close(norm.running_var, used.transpose(1, 2).flatten(2).var(2).mean(0))
    assert (norm.momentum, norm.training, net.training) == (0.1, True, True)
