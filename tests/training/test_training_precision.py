"""Mixed precision on the CPU, which rounds to the same types as a GPU does."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vnas.nets import Architecture, Stage, Stem, VanillaNet, build
from vnas.training import seeded
from vnas.training.precision import Precision
from vnas.training.speed.options import Speed

Amp = Literal["off", "bf16", "fp16"]
CPU = torch.device("cpu")
# Largest error of a sum of products in these types: 8 and 11 bits of fraction.
TOLERANCE = {"off": 1e-6, "bf16": 2.0**-6, "fp16": 2.0**-9}
AMPS: tuple[Amp, ...] = ("off", "bf16", "fp16")


def precision(amp: Amp) -> Precision:
    return Precision(Speed(channels_last=False, amp=amp, compile=False), CPU)


def linear() -> nn.Linear:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -1.0, 0.25], [1.0, 0.75, -0.5]]))
        net.bias.zero_()
    return net


X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.5, 2.0]])


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_products_are_computed_in_its_type_and_weights_stay_float32(amp: Amp, dtype: torch.dtype) -> None:
    net, mixed = linear(), precision(amp)
    with mixed.autocast():
        out = net(X)
    assert out.dtype == dtype
    mixed.backward(out.float().square().sum())
    assert net.weight.dtype == net.weight.grad.dtype == torch.float32
    assert net(X).dtype == torch.float32


@pytest.mark.parametrize("amp", AMPS)
def test_a_step_is_that_of_float32_but_for_rounding(amp: Amp) -> None:
    net, mixed = linear(), precision(amp)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    with mixed.autocast():
        loss = net(X).float().square().sum() / 64.0  # 65,536 times that still fits into float16
    mixed.backward(loss)
    before = net.weight.detach().clone()
    mixed.step(net, optimizer, None)
    by_hand = before - 0.125 * 2.0 / 64.0 * (X @ before.T).T @ X
    assert not net.weight.equal(before)
    torch.testing.assert_close(net.weight.detach(), by_hand, rtol=0, atol=TOLERANCE[amp] / 16)
    assert net.weight.grad is None


@pytest.mark.parametrize("amp", AMPS)
def test_gradients_are_clipped_by_their_true_norm(amp: Amp) -> None:
    """Scaled by 65,536, as float16's are, any gradient would look too long."""
    moved = []
    for clip in (0.5, 1e4):
        net, mixed = linear(), precision(amp)
        before = net.weight.detach().clone()
        mixed.backward(net(X)[:, 0].sum())  # of the first row's weights (1.5, 0.5, 1) and its bias 2
        mixed.step(net, torch.optim.SGD(net.parameters(), lr=1.0), clip)
        moved.append(before - net.weight.detach())
    torch.testing.assert_close(moved[1], torch.tensor([[1.5, 0.5, 1.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(moved[0], moved[1] * 0.5 / 7.5**0.5, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("amp", AMPS)
def test_the_gradients_of_parts_add_up(amp: Amp) -> None:
    results = []
    for parts in (1, 2):
        net, mixed = linear(), precision(amp)
        for part in X.tensor_split(parts):
            mixed.backward(net(part).square().sum() / 2.0)
        mixed.step(net, torch.optim.SGD(net.parameters(), lr=0.1), None)
        results.append(net.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])


def test_a_gradient_that_overflows_skips_the_step_and_halves_the_scale() -> None:
    net, mixed = linear(), precision("fp16")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net.weight.detach().clone()
    mixed.backward(net(X).sum() * float("inf"))
    mixed.step(net, optimizer, 1.0)
    assert net.weight.equal(before)
    assert net.weight.grad is None
    state = mixed.state()
    assert state is not None
    assert state["scale"] == 2.0**15
    mixed.backward(net(X).sum())
    mixed.step(net, optimizer, 1.0)
    assert not net.weight.equal(before)


def test_the_scale_goes_on_from_its_state() -> None:
    first, second = precision("fp16"), precision("fp16")
    net = linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for value in (float("inf"), 1.0, float("inf"), 1.0):
        first.backward(net(X).sum() * value)
        first.step(net, optimizer, None)
    second.load_state(first.state())
    assert second.state() == first.state()
    assert first.state() != precision("fp16").state()


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_only_float16_has_a_scale(amp: Amp) -> None:
    mixed = precision(amp)
    assert mixed.state() is None
    mixed.load_state(None)
    loss = (linear().weight * 3.0).sum()
    gradient: list[Tensor] = []
    loss.register_hook(gradient.append)
    mixed.backward(loss)
    assert gradient[0] == 1.0


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_net_in_mixed_precision_is_close_to_itself_in_float32(amp: Amp, slope: float) -> None:
    arch = Architecture(
        Stem(8, kernel=2, stride=2, padding=0, series=1),
        (Stage(16, stride=2, series=1),),
        in_chans=1,
        image_size=8,
        num_classes=10,
    )
    labels = torch.arange(32) % 10
    images = torch.randn((32, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    gradients, losses = [], []
    for kind in ("off", amp):
        with seeded(0):
            net = build(arch).train()
        widen(net)
        net.set_slope(slope)
        mixed, taken = precision(kind), Recording(net)
        while taken.gradients is None:  # float16 skips steps until the scale has come down
            with mixed.autocast():
                loss = F.cross_entropy(net(images), labels)
            assert loss.dtype == torch.float32
            mixed.backward(loss)
            mixed.step(net, taken, None)
        losses.append(loss.item())
        gradients.append(taken.gradients)
    assert losses[0] == pytest.approx(losses[1], rel=2 * TOLERANCE[amp])
    cosine = F.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert cosine > 1.0 - 4 * TOLERANCE[amp]  # rounding puts some values on the other side of a kink
    assert gradients[1].norm() == pytest.approx(gradients[0].norm().item(), rel=4 * TOLERANCE[amp])


def widen(net: VanillaNet) -> None:
    """Weights of a size that training brings about: those of a fresh net vanish behind the head."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10.0)


class Recording(torch.optim.SGD):
    """Takes note of all gradients in one row, and does nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.parameters(), lr=0.0)
        self._net = net
        self.gradients: Tensor | None = None

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.gradients = torch.cat([weight.grad.flatten() for weight in self._net.parameters()])
