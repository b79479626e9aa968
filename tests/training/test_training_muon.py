from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vnas.training.muon import Muon, orthogonalised


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Flatten()
    ).double()


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_directions_are_those_of_the_singular_value_decomposition(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    """U S V^T becomes U S' V^T, S' near 1 wherever S is not tiny."""
    generator = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(matrix) @ right.T
    diagonal = found.diagonal()
    assert torch.allclose(found, torch.diag(diagonal), atol=1e-9)
    large = values > 2e-3 * values.norm()
    assert ((diagonal > 0.6) & (diagonal < 1.25))[large].all()


def test_a_step_of_a_matrix_has_the_size_of_one_by_adamw() -> None:
    """0.2 sqrt(max(R, C)) times an orthogonal matrix has a root mean square of 0.2, about."""
    layer = nn.Conv2d(64, 32, 1, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn_like(layer.weight)
    Muon(layer, lr=0.5, weight_decay=0.0).step()
    rms = (layer.weight.detach() - before).square().mean().sqrt() / 0.5
    assert float(rms) == pytest.approx(0.2, rel=0.25)


def test_all_but_what_mixes_channels_is_trained_as_by_torchs_adamw() -> None:
    ours, theirs = net(), net()
    muon = Muon(ours, lr=0.01, weight_decay=0.1)
    kinds = {True: [ours[0].weight, ours[3].weight]}
    assert [one for group in muon.param_groups if group["orthogonal"] for one in group["params"]] == kinds[True]
    depthwise, vectors = [theirs[2].weight], [one for one in theirs.parameters() if one.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": depthwise, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.95),
    )
    for step in range(4):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.sin(one.detach() + step)
            other.grad = one.grad.clone()
            if other.ndim > 1 and other.shape[1] > 1:
                other.grad = None
        muon.step()
        adamw.step()
    for index in (2,):
        assert torch.allclose(ours[index].weight, theirs[index].weight, rtol=1e-10)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if one.ndim == 1:
            assert torch.allclose(one, other, rtol=1e-10)


def test_weight_decay_shrinks_by_the_rate_times_the_decay() -> None:
    layer = nn.Conv2d(4, 4, 1)
    before = {name: one.detach().clone() for name, one in layer.named_parameters()}
    for one in layer.parameters():
        one.grad = torch.zeros_like(one)
    Muon(layer, lr=0.5, weight_decay=0.1).step()
    assert torch.allclose(layer.weight, 0.95 * before["weight"])
    assert torch.equal(layer.bias, before["bias"])


def test_it_goes_on_from_its_state() -> None:
    ours = net()
    muon = Muon(ours, lr=0.01, weight_decay=0.1)

    def step(which: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for one in which.parameters():
            one.grad = torch.cos(one.detach())
        optimizer.step()

    step(ours, muon)
    again = net()
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    resumed = Muon(again, lr=0.01, weight_decay=0.1)
    resumed.load_state_dict(copy.deepcopy(muon.state_dict()))
    for _ in range(3):
        step(ours, muon)
        step(again, resumed)
    for one, other in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
