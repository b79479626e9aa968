import copy

import pytest
import torch
from architecture_strategies import SMALL, architectures, distance, images, randomise
from hypothesis import given, settings
from timm.utils import reparameterize_model
from torch import nn

from vnas.errors import FuseError
from vnas.nets import Architecture, FusedVanillaNet, Stage, Stem, VanillaNet, build, fuse, merge


def finished(arch: Architecture, dtype: torch.dtype = torch.float64) -> VanillaNet:
    net = build(arch, dtype=dtype)
    randomise(net)
    net.set_slope(1)
    return net


@given(architectures())
@settings(deadline=None, max_examples=60)
def test_every_form_agrees_in_float64(arch: Architecture) -> None:
    net, x = finished(arch), images(arch)
    with torch.no_grad():
        expected = net(x)
        merged = merge(net)
        assert distance(merged(x), expected) < 1e-12
        for fused in (fuse(net), fuse(merged), reparameterize_model(net), reparameterize_model(merged)):
            assert fused(x).dtype == torch.float64
            assert distance(fused(x), expected) < 1e-12


@given(architectures())
@settings(deadline=None, max_examples=40)
def test_fusing_keeps_float32_within_the_stated_tolerance(arch: Architecture) -> None:
    net, x = finished(arch, torch.float32), images(arch, dtype=torch.float32)
    with torch.no_grad():
        assert distance(fuse(net)(x), net(x)) < 1e-4


@given(architectures())
@settings(deadline=None, max_examples=40)
def test_the_fused_weights_are_those_of_a_fresh_fused_net(arch: Architecture) -> None:
    net = finished(arch).to(memory_format=torch.channels_last)
    fused, fresh = fuse(net), FusedVanillaNet(arch)
    assert {k: v.shape for k, v in fused.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert {k: v.stride() for k, v in fused.state_dict().items()} == {
        k: v.stride() for k, v in fresh.state_dict().items()
    }
    assert [type(m) for m in fused.modules()] == [type(m) for m in fresh.modules()]


@pytest.mark.parametrize(
    "kind",
    [nn.BatchNorm2d, type(build(SMALL).stem.pair)],  # type: ignore[union-attr]
)
def test_nothing_of_the_training_form_is_left(kind: type) -> None:
    assert not any(isinstance(m, kind) for m in fuse(finished(SMALL)).modules())
    assert not list(fuse(finished(SMALL)).buffers())


def test_the_paper_s_numbers_by_hand() -> None:
    # One channel, one pixel: every convolution is a product, so the fused weights can be worked out on paper.
    arch = Architecture(
        Stem(1, 1, 1, 0, 0), (Stage(1, 1, 0, "before_activation"),), in_chans=1, image_size=1, num_classes=1
    )
    net = build(arch, dtype=torch.float64).eval()
    net.set_slope(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
                module.running_mean.fill_(1.0)
                module.running_var.fill_(4.0)
                module.weight.fill_(6.0)
                module.bias.fill_(5.0)
        pair = net.stages[0].pair
        for conv, (w, b) in {pair.conv1: (2.0, 7.0), pair.conv2: (3.0, -1.0)}.items():
            conv.weight.fill_(w)
            conv.bias.fill_(b)
    fused = fuse(net).stages[0].conv
    # BN: y -> (y - 1) 6 / 2 + 5 = 3 y + 2.  First: 3 (2x + 7) + 2 = 6x + 23.  Second: 3 (3 (6x + 23) - 1) + 2.
    assert fused.weight.item() == 54 + 1  # + 1 is the shortcut
    assert fused.bias.item() == 206


def test_the_original_is_untouched_and_fusing_works_twice() -> None:
    net = finished(SMALL).train()
    before = copy.deepcopy(net.state_dict())
    first, second = fuse(net), fuse(net)
    assert net.training
    assert not first.training
    assert not any(m.training for m in first.modules())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    x = images(SMALL)
    assert torch.equal(first(x), second(x))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    pointers = {p.data_ptr() for p in net.parameters()}
    assert not pointers & {p.data_ptr() for p in second.parameters()}
    assert all(p.requires_grad for p in second.parameters())


def test_what_is_fused_already_is_copied() -> None:
    net, x = finished(SMALL), images(SMALL)
    fused = fuse(net)
    for again in (fuse(fused), fuse(reparameterize_model(net))):
        assert isinstance(again, FusedVanillaNet)
        assert again is not fused
        assert distance(again(x), fused(x)) < 1e-12
    with torch.no_grad():
        next(again.parameters()).zero_()
    assert next(fused.parameters()).any()


def test_a_net_below_lambda_1_is_refused_with_the_pairs_and_the_remedy() -> None:
    net = finished(SMALL)
    net.set_slope([1, 1, 0.5, 1, 0.999])
    for make in (fuse, merge):
        with pytest.raises(FuseError) as caught:
            make(net)
        for words in ("2 of 5 pairs", "stages.1.pair 0.5", "head.fc 0.999", "net.set_slope(1)"):
            assert words in str(caught.value)
    with pytest.raises(FuseError, match=r"lambda = 0\.5"):
        reparameterize_model(net)
    net.set_slope([1, 1, 1, 1, 0.999])
    with pytest.raises(FuseError, match=r"lambda = 0\.999"):
        reparameterize_model(net)
    with pytest.raises(ValueError, match="lambda"):
        fuse(build(SMALL))


def test_fusing_below_lambda_1_would_have_been_wrong() -> None:
    net, x = finished(SMALL), images(SMALL)
    at_one = net(x)
    net.set_slope(0.9)
    assert distance(net(x), at_one) > 1e-3


def test_other_modules_are_refused() -> None:
    with pytest.raises(FuseError, match="Linear is not a VanillaNet"):
        fuse(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(FuseError, match="already fused"):
        merge(fuse(finished(SMALL)))  # type: ignore[arg-type]
    with pytest.raises(FuseError, match="already fused"):
        merge(reparameterize_model(finished(SMALL)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    net = finished(SMALL).to(dtype)
    assert {p.dtype for p in fuse(net).parameters()} == {dtype}
    assert {p.dtype for p in merge(net).parameters()} == {dtype}


def test_fusing_on_the_meta_device_gives_the_shapes() -> None:
    net = VanillaNet(SMALL, merged=True, device="meta")
    assert {p.device.type for p in fuse(net).parameters()} == {"meta"}


def test_a_merged_net_trains_on_and_still_fuses() -> None:
    net = finished(SMALL, torch.float32).train()
    merged = merge(net)
    assert merged.training
    assert merged.form == "merged"
    assert merged.num_pairs == 0
    assert merge(merged) is not merged
    optimizer = torch.optim.SGD(merged.parameters(), lr=1e-3)
    x = images(SMALL, batch=8, dtype=torch.float32)
    for _ in range(2):
        optimizer.zero_grad()
        merged(x).square().mean().backward()
        assert all(p.grad is not None for p in merged.parameters())
        optimizer.step()
    merged.eval()
    assert distance(fuse(merged)(x), merged(x)) < 1e-4
    with torch.no_grad():
        assert not torch.equal(merged(x), merge(net).eval()(x))


def test_a_merged_net_has_the_weights_of_a_merged_constructor() -> None:
    merged, fresh = merge(finished(SMALL)), VanillaNet(SMALL, merged=True, dtype=torch.float64)
    fresh.load_state_dict(merged.state_dict())
    x = images(SMALL)
    assert torch.equal(fresh.eval()(x), merged.eval()(x))


def test_a_merged_net_shares_nothing_with_its_source() -> None:
    net = finished(SMALL)
    pointers = {t.data_ptr() for t in net.state_dict().values()}
    assert not pointers & {t.data_ptr() for t in merge(net).state_dict().values()}
