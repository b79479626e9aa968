import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from architecture_strategies import SMALL, distance, images, randomise
from timm.data import resolve_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import vnas.nets.registry
from vnas.errors import ArchitectureError
from vnas.nets import Architecture, FusedVanillaNet, Stage, Stem, VanillaNet, build, fuse
from vnas.nets.base import PlainNet
from vnas.nets.presets import PRESETS


def both_forms() -> list[PlainNet]:
    net = build(SMALL)
    randomise(net)
    net.set_slope(1)
    return [net, fuse(net)]


@pytest.fixture(params=[0, 1], ids=["training", "fused"])
def net(request: pytest.FixtureRequest) -> PlainNet:
    return both_forms()[request.param]


X = images(SMALL, dtype=torch.float32)


def test_every_published_net_is_registered() -> None:
    assert timm.list_models("vanillanet_*") == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_created_on_the_meta_device_each_is_its_preset(name: str) -> None:
    net = timm.create_model(name, device="meta")
    assert isinstance(net, VanillaNet)
    assert net.architecture == Architecture.named(name)
    weights = net.state_dict()
    assert f"{net.pretrained_cfg['first_conv']}.weight" in weights
    assert all(f"{c}.weight" in weights for c in net.pretrained_cfg["classifier"])
    assert net.pretrained_cfg["architecture"] == name


def test_create_model_passes_its_arguments() -> None:
    net = timm.create_model("vanillanet_5", num_classes=7, in_chans=1, drop_rate=0.1, img_size=64, device="meta")
    assert net.architecture == Architecture.named("vanillanet_5", num_classes=7, in_chans=1, dropout=0.1, image_size=64)
    assert timm.create_model("vanillanet_5", image_size=64, device="meta").architecture.image_size == 64
    assert timm.create_model("vanillanet_5", img_size=(64, 64), device="meta").architecture.image_size == 64
    assert timm.create_model("vanillanet_5", num_classes=None, device="meta").num_classes == 1000
    half = timm.create_model("vanillanet_5", dtype=torch.float16, device="meta")
    assert {p.dtype for p in half.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_clases": 3}, ["num_clases", "Did you mean 'num_classes'?"]),
        ({"drop_path_rate": 0.1}, ["drop_path_rate"]),
        ({"img_size": (64, 32)}, ["(64, 32)", "square"]),
        ({"img_size": 64, "image_size": 32}, ["give one of them"]),
        ({"global_pool": "max"}, ["'max'", '"avg"']),
        ({"global_pool": ""}, ["1000 classes", "num_classes=0"]),
        ({"image_size": 8}, ["vanishes"]),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ArchitectureError) as caught:
        timm.create_model("vanillanet_5", device="meta", **arguments)
    for word in words:
        assert word in str(caught.value)


def test_the_data_configuration_is_that_of_the_net() -> None:
    config = resolve_data_config(model=timm.create_model("vanillanet_5", img_size=64, device="meta"))
    assert config["input_size"] == (3, 64, 64)
    assert config["interpolation"] == "bicubic"
    assert config["mean"] == (0.485, 0.456, 0.406)
    grey = timm.create_model("vanillanet_5", in_chans=1, img_size=64, device="meta")
    assert resolve_data_config(model=grey)["input_size"] == (1, 64, 64)
    assert len(resolve_data_config(model=grey)["mean"]) == 1
    own = resolve_data_config(model=build(SMALL))
    assert own["input_size"] == (3, 16, 16)
    assert not build(SMALL).default_cfg["fixed_input_size"]


def test_features_only() -> None:
    x = torch.randn(2, 3, 64, 64)
    net = timm.create_model("vanillanet_6", features_only=True)
    assert net.feature_info.channels() == [512, 1024, 2048, 4096]
    assert net.feature_info.reduction() == [4, 8, 16, 32]
    assert [m.shape for m in net(x)] == [(2, 512, 16, 16), (2, 1024, 8, 8), (2, 2048, 4, 4), (2, 4096, 2, 2)]


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx", "getter"])
def test_every_kind_of_feature_extractor_gives_the_intermediates(feature_cls: str) -> None:
    torch.manual_seed(0)
    wrapped = timm.create_model(
        "vanillanet_5", features_only=True, out_indices=(0, 2), feature_cls=feature_cls, img_size=64
    ).eval()
    torch.manual_seed(0)
    plain = timm.create_model("vanillanet_5", img_size=64).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = wrapped(x)
        maps = list(found.values()) if isinstance(found, dict) else found
        expected = plain.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert wrapped.feature_info.channels() == [512, 2048]
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_features_and_head_make_the_net(net: PlainNet) -> None:
    features = net.forward_features(X)
    assert features.shape == (2, 10, *(SMALL.feature_sizes[-1],) * 2)
    assert torch.equal(net.forward_head(features), net(X))
    pooled = net.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, net.head_hidden_size) == (2, net.num_features)
    torch.testing.assert_close(pooled, features.mean((2, 3)))


def test_intermediates(net: PlainNet) -> None:
    last, maps = net.forward_intermediates(X)
    assert len(maps) == 4
    assert torch.equal(last, net.forward_features(X))
    for info, found, size in zip(net.feature_info, maps, SMALL.feature_sizes, strict=True):
        assert found.shape == (2, info["num_chs"], size, size)
        assert info["reduction"] == 16 // size
        assert isinstance(net.get_submodule(str(info["module"])), nn.Module)
    only = net.forward_intermediates(X, indices=2, intermediates_only=True)
    assert [torch.equal(a, b) for a, b in zip(only, maps[2:], strict=True)] == [True, True]
    early, some = net.forward_intermediates(X, indices=(0, -3), stop_early=True)
    assert torch.equal(early, maps[1])
    assert [torch.equal(a, b) for a, b in zip(some, maps[:2], strict=True)] == [True, True]
    with pytest.raises(ArchitectureError, match="NLC"):
        net.forward_intermediates(X, output_fmt="NLC")


@pytest.mark.parametrize("keep", [[1], [0, 2], [0], [3]])
def test_pruning_keeps_the_intermediates_asked_for(net: PlainNet, keep: list[int]) -> None:
    expected = net.forward_intermediates(X, indices=keep, intermediates_only=True)
    assert net.prune_intermediate_layers(keep) == keep
    assert len(net.stages) == keep[-1]
    assert net.num_classes == 0
    assert net.num_features == SMALL.widths[keep[-1]]
    assert torch.equal(net(X), expected[-1])
    assert net.architecture.widths[: keep[-1] + 1] == SMALL.widths[: keep[-1] + 1]
    assert torch.equal(fuse(net)(X), net(X)) or distance(fuse(net)(X), net(X)) < 1e-4


def test_pruning_may_keep_the_head_of_a_whole_net(net: PlainNet) -> None:
    before = net(X)
    net.prune_intermediate_layers([3], prune_head=False)
    assert torch.equal(net(X), before)
    net.prune_intermediate_layers([1], prune_head=False)
    assert net.num_classes == 0


def test_reset_classifier(net: PlainNet) -> None:
    features = net.forward_features(X)
    net.reset_classifier(3)
    assert net(X).shape == (2, 3)
    assert net.architecture.num_classes == net.num_classes == 3
    assert net.get_classifier() is net.head.fc
    assert torch.equal(net.forward_features(X), features)
    assert not net.head.training
    assert fuse(net)(X).shape == (2, 3)  # a fresh classifier keeps lambda = 1
    net.reset_classifier(0, "avg")
    assert isinstance(net.get_classifier(), nn.Identity)
    torch.testing.assert_close(net(X), features.mean((2, 3)))
    net.reset_classifier(0, "")
    assert torch.equal(net(X), features)
    assert fuse(net)(X).shape == features.shape
    net.reset_classifier(0)
    assert torch.equal(net(X), features)
    net.reset_classifier(4)
    assert net(X).shape == (2, 4)
    for classes, pool in ((3, ""), (3, "max"), (-1, "avg")):
        with pytest.raises(ArchitectureError):
            net.reset_classifier(classes, pool)
    assert net.num_classes == 4


def test_a_fresh_classifier_goes_on_at_the_lambda_reached() -> None:
    net = build(SMALL, dtype=torch.float64)
    net.set_slope(0.5)
    net.reset_classifier(2)
    assert net.slopes == (0.5,) * 5
    net.reset_classifier(0)
    assert net.slopes == (0.5,) * 4
    net.reset_classifier(2)
    assert net.slopes == (0.5,) * 5
    assert {p.dtype for p in net.head.parameters()} == {torch.float64}


def test_headless_nets_without_a_pool_from_the_factory() -> None:
    net = timm.create_model("vanillanet_5", num_classes=0, global_pool="", img_size=64)
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 4096, 2, 2)
    assert timm.create_model("vanillanet_5", num_classes=0, img_size=64)(torch.randn(1, 3, 64, 64)).shape == (1, 4096)


def test_checkpointing_gives_the_same_gradients(net: PlainNet) -> None:
    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        net(X).square().sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    plain = gradients()
    net.set_grad_checkpointing()
    checkpointed = gradients()
    assert len(plain) == len(checkpointed) == len(list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert len(net.forward_intermediates(X, intermediates_only=True)) == 4
    net.set_grad_checkpointing(False)
    assert not net.grad_checkpointing


@pytest.mark.parametrize("coarse", [False, True])
def test_parameters_fall_into_layers_in_order(net: PlainNet, coarse: bool) -> None:
    groups = group_parameters(net, net.group_matcher(coarse), reverse=True)
    assert set(groups) == {name for name, _ in net.named_parameters()}
    layers = [groups[name] for name, _ in net.named_parameters() if name.startswith("stages")]
    assert groups["stem.act.conv.weight"] == 0
    assert len(set(layers)) == len(net.stages)
    assert max(groups.values()) == groups[next(n for n in groups if n.startswith("head"))]
    assert layers == sorted(layers)


def test_timm_optimizers_take_the_net(net: PlainNet) -> None:
    create_optimizer_v2(net, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    groups = param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.8)
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_pretrained_weights_come_from_a_file_and_the_classifier_may_differ(tmp_path: Path) -> None:
    source = randomise(timm.create_model("vanillanet_5", num_classes=3, img_size=64))
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    cfg = {"file": str(tmp_path / "weights.pth"), "num_classes": 3}
    arguments = {"pretrained": True, "pretrained_cfg_overlay": cfg, "img_size": 64}
    same = timm.create_model("vanillanet_5", num_classes=3, **arguments).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(same(x), source(x))
    other = timm.create_model("vanillanet_5", num_classes=5, **arguments).eval()
    assert torch.equal(other.forward_features(x), source.forward_features(x))
    assert other(x).shape == (1, 5)
    grey = timm.create_model("vanillanet_5", num_classes=3, in_chans=1, **arguments)
    torch.testing.assert_close(
        grey.stem.pair.conv1.weight, source.stem.pair.conv1.weight.sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_reloading_the_registry_warns_of_nothing() -> None:
    importlib.reload(vnas.nets.registry)
    assert timm.list_models("vanillanet_*") == list(PRESETS)
    assert isinstance(timm.create_model("vanillanet_5", device="meta"), VanillaNet)


def test_a_name_that_another_package_took_is_reported() -> None:
    def vanillanet_5(pretrained: bool = False, **kwargs: object) -> nn.Module:
        return nn.Identity()

    with pytest.warns(UserWarning, match="Overwriting vanillanet_5"):
        timm.models.register_model(vanillanet_5)
    with pytest.warns(UserWarning, match="Overwriting vanillanet_5"):
        importlib.reload(vnas.nets.registry)
    assert isinstance(timm.create_model("vanillanet_5", device="meta"), VanillaNet)


def test_star_import_of_the_registry() -> None:
    namespace: dict[str, object] = {}
    exec("from vnas.nets.registry import *", namespace)
    assert callable(namespace["vanillanet_6"])


def test_the_package_does_not_import_pydantic() -> None:
    code = "import sys, vnas.nets; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_net_built_from_an_architecture_is_as_much_a_citizen() -> None:
    net = FusedVanillaNet(Architecture(Stem(4), (Stage(8),), in_chans=2, image_size=16))
    assert net.default_cfg["input_size"] == (2, 16, 16)
    assert len(net.default_cfg["mean"]) == 2
    assert net.default_cfg["pool_size"] == (2, 2)
