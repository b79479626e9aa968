"""The orthogonal optimiser, against singular value decompositions and torch's own AdamW."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vnas.config import Anneal, TrainingConfig
from vnas.nets import Architecture, Stage, Stem, build
from vnas.training import Checkpoint, Data, Progress, fit
from vnas.training.optim import make_optimizer, set_learning_rate
from vnas.training.orthogonal import OrthogonalAdamW, orthogonal

CPU = torch.device("cpu")
ORTHOGONAL = TrainingConfig(
    init="identity", optimizer="orthogonal", lr=0.02, adamw_lr=0.004, momentum=0.9, weight_decay=0.1
)


def by_svd(matrix: Tensor) -> Tensor:
    """The iteration on each singular value by itself, in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(6, 6), (5, 20), (20, 5), (1, 4)])
def test_a_matrix_keeps_its_singular_vectors_alone(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonal(matrix)
    torch.testing.assert_close(found.double(), by_svd(matrix), atol=1e-4, rtol=1e-4)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    assert not orthogonal(torch.zeros(shape)).any()


def toy() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> dict[str, Tensor]:
    optimizer.zero_grad()
    (net(torch.randn(4, 3, 5, 5)).square().mean() * scale).backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    optimizer.step()
    return gradients


def test_kernels_follow_their_momentum_made_orthogonal_and_the_rest_adamw() -> None:
    net = toy()
    optimizer = make_optimizer(net, ORTHOGONAL)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    weights = {name: start[name].double() for name in ("0.weight", "3.weight")}
    momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    others = {name: nn.Parameter(value) for name, value in start.items() if name not in weights}
    matrices = [p for p in others.values() if p.ndim > 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": [p for p in others.values() if p.ndim == 1]}],
        lr=0.1, weight_decay=0.0,
    )  # fmt: skip
    for lr in (0.02, 0.01, 0.005):
        set_learning_rate(optimizer, lr)
        set_learning_rate(adamw, lr / 5)
        gradients = step(net, optimizer)
        for name, parameter in others.items():
            parameter.grad = gradients[name]
        adamw.step()
        for name, weight in weights.items():
            gradient = gradients[name].double()
            momenta[name] = 0.9 * momenta[name] + gradient
            rows, columns = gradient.flatten(1).shape
            update = by_svd((gradient + 0.9 * momenta[name]).flatten(1)).view_as(weight)
            weights[name] = weight * (1 - lr * 0.1) - lr * math.sqrt(max(1, rows / columns)) * update
    for name, found in net.named_parameters():
        if name in weights:
            torch.testing.assert_close(found.double(), weights[name], atol=1e-5, rtol=1e-4)
        else:
            torch.testing.assert_close(found, others[name], atol=1e-6, rtol=1e-5)


def test_the_head_and_the_series_kernels_are_adamws() -> None:
    net = build(Architecture(Stem(4, 4, 4, 0, 1), (Stage(6, series=1),), num_classes=3, image_size=16))
    optimizer = make_optimizer(net, ORTHOGONAL)
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = {names[p] for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    assert found == {f"{pair}.{conv}.weight" for pair in ("stem.pair", "stages.0.pair") for conv in ("conv1", "conv2")}
    set_learning_rate(optimizer, 0.01)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.01 if group["orthogonal"] else 0.002)
        assert all(group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0) for p in group["params"])
    assert sorted(names.values()) == sorted(names[p] for group in optimizer.param_groups for p in group["params"])


def test_layer_decay_holds_for_both_kinds() -> None:
    net = build(Architecture(Stem(4, 4, 4, 0, 0), (Stage(4, series=0),), num_classes=3, image_size=16))
    optimizer = make_optimizer(net, ORTHOGONAL.model_copy(update={"layer_decay": 0.5}))
    plain = make_optimizer(net, TrainingConfig(layer_decay=0.5))
    shares = {id(p): group["lr_scale"] for group in plain.param_groups for p in group["params"]}
    assert len(set(shares.values())) > 1
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr_scale"] == pytest.approx(shares[id(parameter)] * (1.0 if group["orthogonal"] else 0.2))


def test_its_state_can_be_saved_and_gone_on_with() -> None:
    nets = [toy(), toy()]
    first, second = (make_optimizer(net, ORTHOGONAL) for net in nets)
    step(nets[0], first)
    file = io.BytesIO()
    torch.save({"net": nets[0].state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    nets[1].load_state_dict(saved["net"])
    second.load_state_dict(saved["optimizer"])
    for net, optimizer in zip(nets, (first, second), strict=True):
        torch.manual_seed(5)
        step(net, optimizer)
    assert all(torch.equal(one, other) for one, other in zip(*(net.parameters() for net in nets), strict=True))


def test_gradients_are_unscaled_for_both_kinds_and_infinite_ones_leave_out_the_step() -> None:
    nets = [toy(), toy()]
    plain, scaled = (make_optimizer(net, ORTHOGONAL) for net in nets)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for net, optimizer in zip(nets, (plain, scaled), strict=True):
        torch.manual_seed(5)
        loss = net(torch.randn(4, 3, 5, 5)).square().mean()
        if optimizer is plain:
            loss.backward()
            plain.step()
        else:
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(scaled)
            scaler.update()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other)
    before = [parameter.detach().clone() for parameter in nets[1].parameters()]
    scaler.scale(nets[1](torch.full((4, 3, 5, 5), torch.inf)).sum()).backward()  # type: ignore[no-untyped-call]
    scaler.step(scaled)
    assert all(torch.equal(one, other) for one, other in zip(before, nets[1].parameters(), strict=True))


def test_a_step_leaves_the_gradients_and_takes_a_closure() -> None:
    net = toy()
    optimizer = make_optimizer(net, ORTHOGONAL.model_copy(update={"momentum": 0.9}))
    assert isinstance(optimizer, OrthogonalAdamW)
    gradients: list[Tensor] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = net(torch.ones(4, 3, 5, 5)).square().mean()
        loss.backward()
        gradients[:] = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
        return loss.item()

    for _ in range(3):  # with momentum from the second on
        assert (optimizer.step(closure) or 0.0) > 0
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_that_was_stopped_goes_on_to_the_same_net(
    merge: bool, digits: Data, small: Architecture, tmp_path: Path
) -> None:
    config = ORTHOGONAL.model_copy(
        update={"epochs": 1, "batch_size": 128, "flip": False, "merge": merge, "anneal": Anneal(end=0.3)}
    )

    def train(checkpoint: Checkpoint | None = None, progress: Callable[[Progress], None] | None = None) -> Tensor:
        result = fit(small, digits, config, seed=4, device=CPU, checkpoint=checkpoint, progress=progress)
        assert result.fused is not None
        assert (result.merged_at is not None) == merge
        return torch.cat([value.flatten() for value in result.fused.state_dict().values()])

    def stop(progress: Progress) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    whole = train()
    kept = Checkpoint(tmp_path / "run.pt", seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(kept, stop)
    assert torch.equal(train(kept), whole)
