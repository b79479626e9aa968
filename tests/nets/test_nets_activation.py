import pytest
import torch
from torch.nn import functional as F

from vnas.nets.activation import PadChannels, SeriesActivation, SlopedActivation
from vnas.nets.architecture import ACTIVATIONS

BASES = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def test_every_base_activation_is_covered() -> None:
    assert tuple(BASES) == ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_sloped_activation_is_exactly_a_at_0_and_exactly_the_identity_at_1(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1000) * 10, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])]).to(dtype)
    act = SlopedActivation(name)
    assert torch.equal(act(x), BASES[name](x))
    act.slope.fill_(1)
    assert torch.equal(act(x), x)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("slope", [0.25, 0.5, 0.9])
def test_between_them_it_is_the_paper_s_mixture_with_its_gradient(name: str, slope: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    act = SlopedActivation(name, dtype=torch.float64)
    act.slope.fill_(slope)
    expected = (1 - slope) * BASES[name](x) + slope * x
    torch.testing.assert_close(act(x), expected, rtol=1e-12, atol=1e-12)
    got, want = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (act(x), expected))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_slope_is_state_and_is_not_trained() -> None:
    act = SlopedActivation("relu")
    assert list(act.state_dict()) == ["slope"]
    assert act.slope.shape == (1,)
    assert not list(act.parameters())


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("shift", [False, True])
def test_the_series_activation_is_the_paper_s_double_sum(n: int, shift: bool) -> None:
    torch.manual_seed(0)
    width, side = 3, 5
    act = SeriesActivation(width, n, "relu", shift, dtype=torch.float64).eval()
    a = torch.randn_like(act.conv.weight)
    b = torch.randn(width, dtype=torch.float64) if shift else torch.zeros(width, dtype=torch.float64)
    with torch.no_grad():
        act.conv.weight.copy_(a)
        if act.shift is not None:
            act.shift.copy_(b)
    x = torch.randn(1, width, side, side, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for c in range(width):
        for h in range(side):
            for w in range(side):
                for i in range(-n, n + 1):
                    for j in range(-n, n + 1):
                        if 0 <= h + i < side and 0 <= w + j < side:
                            term = torch.relu(x[0, c, h + i, w + j] + b[c])
                            expected[0, c, h, w] += a[c, 0, i + n, j + n] * term
    # A fresh batch norm in eval mode divides by sqrt(1 + eps).
    torch.testing.assert_close(act(x), expected / (1 + 1e-6) ** 0.5, rtol=1e-12, atol=1e-12)


def test_a_fresh_shift_is_zero_and_absent_by_default() -> None:
    assert SeriesActivation(4, 1, "relu", False).shift is None
    shift = SeriesActivation(4, 1, "relu", True).shift
    assert shift is not None
    assert not shift.any()


def test_channels_are_padded_with_zeros_or_cut() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(PadChannels(3, 2)(x), x[:, :2])
    assert torch.equal(PadChannels(3, 3)(x), x)
    padded = PadChannels(3, 5)(x)
    assert torch.equal(padded[:, :3], x)
    assert padded.shape == (2, 5, 4, 4)
    assert not padded[:, 3:].any()
