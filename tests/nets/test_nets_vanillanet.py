import copy
import pickle

import pytest
import torch
from architecture_strategies import SMALL, architectures, images, randomise
from hypothesis import given, settings
from torch import nn

from vnas.nets import Architecture, FusedVanillaNet, Stage, Stem, VanillaNet, build, fuse, merge
from vnas.nets.presets import PRESETS

# Published parameter counts: training form, fused form.
PARAMS = {
    "vanillanet_5": (22328800, 15523304),
    "vanillanet_6": (56116704, 32509416),
    "vanillanet_7": (56670176, 32797672),
    "vanillanet_8": (65175520, 37096424),
    "vanillanet_9": (73680864, 41395176),
    "vanillanet_10": (82186208, 45693928),
    "vanillanet_11": (90691552, 49992680),
    "vanillanet_12": (99196896, 54291432),
    "vanillanet_13": (107702240, 58590184),
    "vanillanet_13_x1_5": (236942048, 127796200),
    "vanillanet_13_x1_5_ada_pool": (236942048, 127796200),
}


def test_every_preset_has_a_published_count() -> None:
    assert list(PARAMS) == list(PRESETS)


@pytest.mark.parametrize("name", PARAMS)
def test_parameter_counts_equal_the_published_ones(name: str) -> None:
    arch = Architecture.named(name)
    training, fused = VanillaNet(arch, device="meta"), FusedVanillaNet(arch, device="meta")
    assert (sum(p.numel() for p in training.parameters()), sum(p.numel() for p in fused.parameters())) == PARAMS[name]


@given(architectures())
@settings(deadline=None, max_examples=60)
def test_every_architecture_builds_runs_and_has_the_sizes_it_says(arch: Architecture) -> None:
    x = images(arch, dtype=torch.float32)
    for net in (build(arch), FusedVanillaNet(arch), VanillaNet(arch, merged=True)):
        net.eval()
        last, maps = net.forward_intermediates(x)
        assert [m.shape[-1] for m in maps] == list(arch.feature_sizes)
        assert [m.shape[1] for m in maps] == list(arch.widths)
        assert torch.equal(last, maps[-1])
        assert net(x).shape == (2, arch.num_classes or arch.widths[-1])
        assert net.architecture == arch


def test_a_fresh_net_has_slope_0_and_the_official_initial_values() -> None:
    net = build(Architecture(Stem(64), (Stage(128),), image_size=16, num_classes=10, series_shift=True))
    assert net.slopes == (0.0, 0.0, 0.0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-6


def test_slopes_go_to_the_pairs_in_order() -> None:
    net = build(SMALL)
    assert list(net.pairs) == ["stem.pair", "stages.0.pair", "stages.1.pair", "stages.2.pair", "head.fc"]
    assert net.num_pairs == 5
    net.set_slope(0.5)
    assert net.slopes == (0.5,) * 5
    net.set_slope((0, 0.25, 0.5, 0.75, 1))
    assert net.slopes == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert net.stages[2].pair.act.slope.item() == 0.75
    headless = build(Architecture(Stem(4), (Stage(4),), num_classes=0))
    assert headless.num_pairs == 2


def test_setting_the_slope_changes_the_same_tensor() -> None:
    net = build(SMALL)
    tensors = [id(b) for b in net.buffers()]
    net.set_slope(0.5)
    assert [id(b) for b in net.buffers()] == tensors


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), [0.5, 0.5, 0.5, 0.5, 2]])
def test_a_slope_outside_0_to_1_is_refused_and_changes_nothing(value: float | list[float]) -> None:
    net = build(SMALL)
    net.set_slope(0.25)
    with pytest.raises(ValueError, match="from 0 to 1"):
        net.set_slope(value)
    assert net.slopes == (0.25,) * 5


def test_a_wrong_number_of_slopes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 values of lambda arrived for 5 pairs \(stem, 3 stages, head\)"):
        build(SMALL).set_slope([1, 1, 1])


def test_a_merged_net_stays_at_1() -> None:
    net = build(SMALL)
    net.set_slope(1)
    merged = merge(net)
    merged.set_slope(1)
    with pytest.raises(ValueError, match="stays at 1"):
        merged.set_slope(0.5)


def test_the_slopes_are_in_the_state_dict() -> None:
    net, other = build(SMALL), build(SMALL)
    net.set_slope([0, 0.25, 0.5, 0.75, 1])
    other.load_state_dict(net.state_dict())
    assert other.slopes == net.slopes


@pytest.mark.parametrize("make", [build, FusedVanillaNet, lambda arch: VanillaNet(arch, merged=True)])
def test_copies_and_pickles_are_the_same_net(make) -> None:  # type: ignore[no-untyped-def]
    net = randomise(make(SMALL))
    x = images(SMALL, dtype=torch.float32)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert twin.architecture == SMALL


def test_residuals_by_their_equations() -> None:
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    for residual in ("before_activation", "after_activation"):
        for projection in ("pad", "conv"):
            arch = Architecture(Stem(6), (Stage(9, residual=residual),), projection=projection)
            stage = randomise(build(arch, dtype=torch.float64)).stages[0]
            cut = torch.cat([x, x.new_zeros(2, 3, 8, 8)], 1) if projection == "pad" else stage.shortcut(x)
            pool = nn.functional.max_pool2d
            if residual == "before_activation":
                expected = stage.act(pool(stage.pair(x) + cut, 2))
            else:
                short = pool(cut, 2) if projection == "pad" else stage.shortcut(pool(x, 2))
                expected = stage.act(pool(stage.pair(x), 2)) + short
            torch.testing.assert_close(stage(x), expected, rtol=1e-12, atol=1e-12)


def test_every_parameter_is_trained() -> None:
    net = build(SMALL).train()
    net.set_slope(0.5)
    net(images(SMALL, batch=8, dtype=torch.float32)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name


def test_the_fresh_fused_net_keeps_its_maps_at_an_ordinary_scale() -> None:
    arch = Architecture(Stem(64, stride=1), (Stage(64, stride=1),) * 12, image_size=16, num_classes=10)
    with torch.no_grad():
        _, maps = FusedVanillaNet(arch).forward_intermediates(images(arch, dtype=torch.float32))
    assert all(1e-4 < m.std().item() < 1e4 for m in maps)


def test_dropout_acts_in_training_only() -> None:
    arch = Architecture(Stem(16), (Stage(64),), image_size=16, num_classes=4, dropout=0.5)
    for net in (build(arch), fuse_at_one(arch)):
        x = images(arch, dtype=torch.float32)
        features = net.eval().forward_features(x)
        assert torch.equal(net(x), net(x))
        net.train()
        assert not torch.equal(net.forward_head(features, pre_logits=True), net.forward_head(features, pre_logits=True))


def fuse_at_one(arch: Architecture) -> FusedVanillaNet:
    net = randomise(build(arch))
    net.set_slope(1)
    return fuse(net)
