import copy

import pytest
import timm
import torch
import torchvision
from architecture_strategies import SMALL, architectures
from hypothesis import given, settings
from torch import library, nn

from vnas.errors import ArchitectureError
from vnas.nets import Architecture, FusedVanillaNet, Stage, Stem, VanillaNet, build, cost, operators

# Published multiply-accumulates of the fused net at 224 px, in units of 1e9.
GIGA_MACS = {
    "vanillanet_5": 5.17,
    "vanillanet_6": 5.99,
    "vanillanet_7": 6.90,
    "vanillanet_8": 7.7,
    "vanillanet_9": 8.6,
    "vanillanet_10": 9.4,
    "vanillanet_11": 10.3,
    "vanillanet_12": 11.1,
    "vanillanet_13": 11.94,
    "vanillanet_13_x1_5": 26.5,
}


@pytest.mark.parametrize("name", GIGA_MACS)
def test_macs_equal_the_published_ones(name: str) -> None:
    found = cost(Architecture.named(name))
    assert found.macs / 1e9 == pytest.approx(GIGA_MACS[name], rel=0.005)
    assert found.uncounted == ()


@given(architectures())
@settings(deadline=None, max_examples=40)
def test_macs_of_any_architecture_by_the_formula(arch: Architecture) -> None:
    sizes, w = arch.feature_sizes, arch.widths
    macs = arch.in_chans * w[0] * (arch.stem.kernel * sizes[0]) ** 2
    macs += w[0] * ((2 * arch.stem.series + 1) * sizes[0]) ** 2
    for i, stage in enumerate(arch.stages):
        macs += w[i] * w[i + 1] * sizes[i] ** 2 + w[i + 1] * ((2 * stage.series + 1) * sizes[i + 1]) ** 2
        if stage.residual == "after_activation" and arch.shortcut(i) == "conv":
            macs += w[i] * w[i + 1] * sizes[i + 1] ** 2
    macs += w[-1] * arch.num_classes
    found = cost(arch)
    assert found.macs == macs
    assert found.params == sum(p.numel() for p in FusedVanillaNet(arch).parameters())
    assert found.weight_bytes == 4 * found.params
    assert found == cost(FusedVanillaNet(arch))
    assert found.uncounted == ()


def test_kernels_and_bytes_of_a_small_net_by_hand() -> None:
    arch = Architecture(Stem(4), (Stage(8),), image_size=16, num_classes=3)
    found = cost(arch)
    # conv, relu, depthwise; conv, pool, relu, depthwise; average, conv.
    assert found.kernels == 9
    values = 3 * 4 * 16 + 8 * 16 + 3 * 8 * 4 + 8 + 3
    indices = 8 * 4  # of the max pool, eight bytes each
    assert found.activation_bytes == 4 * values + 8 * indices


def test_operators_of_a_small_net_by_hand() -> None:
    arch = Architecture(Stem(4), (Stage(8),), image_size=16, num_classes=3)
    found = operators(arch)
    names = ["convolution", "relu", "convolution", "convolution", "max_pool2d_with_indices", "relu", "convolution"]
    assert [one.name for one in found] == [*names, "mean", "convolution"]
    stem, relu, series, stage, pool = found[:5]
    assert (stem.macs, stem.written_bytes) == (3 * 16 * 4 * 16, 4 * 4 * 16)
    assert stem.read_bytes == 4 * (3 * 256 + 3 * 16 * 4 + 4)  # image, weight, bias
    assert (relu.macs, relu.read_bytes, relu.written_bytes) == (0, 4 * 64, 4 * 64)
    assert series.macs == 4 * 49 * 16
    assert stage.macs == 4 * 8 * 16
    assert stage.intensity == pytest.approx(2 * 512 / (4 * (64 + 32 + 8) + 4 * 128))
    assert (pool.read_bytes, pool.written_bytes) == (4 * 128, 4 * 32 + 8 * 32)
    total = cost(arch)
    assert total.macs == sum(one.macs for one in found)
    assert total.kernels == len(found)
    assert total.traffic_bytes == sum(one.read_bytes + one.written_bytes for one in found)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnextv2_atto"])
def test_multiply_accumulates_of_each_operator_agree_with_hooks_on_the_layers(name: str) -> None:
    """An independent counter: by the shapes that convolutions and linear layers are seen to take and give."""
    net = timm.create_model(name).eval()
    found = [one.macs for one in operators(net) if one.macs]
    seen: list[int] = []

    def count(layer: nn.Module, arguments: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        # Each value that is written sums over the inputs of its group, or over all features.
        seen.append(out.numel() * layer.weight[0].numel())

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    assert found == seen


def test_a_tensor_that_an_operator_is_given_twice_is_read_once() -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    (one,) = operators(Square(), 4)
    assert (one.name, one.read_bytes, one.written_bytes) == ("mul", 4 * 48, 4 * 48)


def test_resnet_50_and_others_have_their_published_macs() -> None:
    assert cost(timm.create_model("resnet50")).macs / 1e9 == pytest.approx(4.09, rel=0.005)
    assert cost(torchvision.models.shufflenet_v2_x1_5(), 224).macs / 1e9 == pytest.approx(0.30, rel=0.02)
    swin = cost(timm.create_model("swin_tiny_patch4_window7_224"))
    assert swin.macs / 1e9 == pytest.approx(4.5, rel=0.005)
    assert swin.params == 28288354


def test_the_training_form_costs_its_pairs() -> None:
    training, merged, fused = cost(build(SMALL)), cost(VanillaNet(SMALL, merged=True)), cost(SMALL)
    assert training.macs > merged.macs > fused.macs
    assert training.params == sum(p.numel() for p in build(SMALL).parameters())
    assert training.kernels > merged.kernels > fused.kernels


def test_the_net_is_untouched() -> None:
    net = build(SMALL).train()
    before = copy.deepcopy(net.state_dict())
    pointers = [p.data_ptr() for p in net.parameters()]
    calls: list[int] = []
    net.stem.register_forward_hook(lambda *_: calls.append(1))
    cost(net)
    assert net.training
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.device.type == "cpu" for p in net.parameters())


def test_size_channels_and_dtype_are_those_asked_for() -> None:
    assert cost(SMALL, 32).macs > 3 * cost(SMALL).macs
    assert cost(build(SMALL), 32) != cost(build(SMALL))
    assert cost(build(SMALL).half()).weight_bytes * 2 == cost(build(SMALL)).weight_bytes
    conv = nn.Conv2d(5, 2, 1)
    assert cost(conv, 4, in_chans=5).macs == 5 * 2 * 16
    assert (
        cost(timm.create_model("resnet18", in_chans=1), in_chans=1).params
        == cost(timm.create_model("resnet18")).params - 64 * 2 * 49
    )
    with pytest.raises(ArchitectureError, match="Conv2d does not say"):
        cost(conv)
    with pytest.raises(ArchitectureError, match="vanishes"):
        cost(SMALL, 2)


def test_views_are_no_kernels_and_in_place_operators_are() -> None:
    class Reshaping(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).view(1, 3, -1).transpose(1, 2)[:, :4].unsqueeze(0).detach()

    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone().relu_()

    assert cost(Reshaping(), 4).kernels == 0
    assert cost(Reshaping(), 4).activation_bytes == 0
    assert cost(InPlace(), 4).kernels == 2


def test_what_cannot_be_counted_is_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4)
            self.register_buffer("other", torch.zeros(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(x[0, 0], self.other)

    assert cost(Recurrent(), 4).uncounted == ("aten._cdist_forward.default",)

    @library.custom_op("vnas_tests::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    mystery.register_fake(torch.empty_like)

    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return mystery(x)  # type: ignore[no-any-return]

    assert cost(Custom(), 4).uncounted == ("vnas_tests.mystery.default",)


def test_a_tensor_outside_parameters_and_buffers_is_handled() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    assert cost(Scaled(), 4).kernels == 1


def test_shared_weights_count_once() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    found = cost(nn.Sequential(conv, conv), 4)
    assert (found.params, found.macs) == (9, 2 * 9 * 16)


def test_a_compiled_net_costs_what_it_compiled() -> None:
    net = FusedVanillaNet(SMALL)
    assert cost(torch.compile(net)) == cost(net)
