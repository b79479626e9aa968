import copy

import pytest
import timm
import torch
import torchvision
from architecture_strategies import SMALL, architectures
from hypothesis import given, settings
from torch import library, nn

from vnas.errors import ArchitectureError
from vnas.nets import Architecture, FusedVanillaNet, Stage, Stem, VanillaNet, build, cost

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
