"""torch.compile around a net in training. Mostly with a backend that traces and generates no code, to be quick."""

import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.nn import functional as F
from training_nets import TINY

from vnas.config import TrainingConfig
from vnas.nets import VanillaNet, build
from vnas.profiler.runtimes import catalogue
from vnas.training import Data, Progress, fit, seeded
from vnas.training.speed import compiling
from vnas.training.speed.compiling import Compiled, why_not

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("default")  # of torch's compiler about itself


@pytest.fixture(autouse=True)
def tracing_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(dtype: torch.dtype = torch.float64) -> VanillaNet:
    with seeded(1):
        return build(TINY, dtype=dtype).train()


def images(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((count, 1, 8, 8), generator=torch.Generator().manual_seed(count), dtype=dtype)


def graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def agree(net: VanillaNet, notes: list[str]) -> None:
    """Three steps of both, with another lambda in each: losses, weights and running statistics."""
    plain = copy.deepcopy(net)
    compiled = Compiled(net, notes)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (net, plain)]
    for step, lambda_ in enumerate((0.0, 0.3, 1.0)):
        losses = []
        for each, call, optimizer in zip((net, plain), (compiled, plain), optimizers, strict=True):
            each.set_slope(lambda_)
            loss = F.cross_entropy(call(images(8)), torch.arange(8))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12), step
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-10, atol=1e-12, msg=name)


def test_a_compiled_net_trains_as_the_net_itself_at_every_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compiling, "BACKEND", "aot_eager"
    )  # forward and backward pass as graphs of torch's own operators
    notes: list[str] = []
    before = graphs()
    agree(made(), notes)
    assert graphs() == before + 1
    assert notes == []


@pytest.mark.slow
@pytest.mark.skipif(why_not(CPU) is not None, reason=why_not(CPU) or "")
def test_generated_code_trains_as_the_net_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    notes: list[str] = []
    agree(made(), notes)
    assert notes == []


def test_another_lambda_is_not_compiled_for() -> None:
    net, notes = made(), []
    compiled = Compiled(net, notes)
    compiled(images(8))
    before = graphs()
    outputs = []
    with torch.compiler.set_stance("fail_on_recompile"):
        for lambdas in ((0.0, 0.0, 0.0), (0.25, 0.5, 0.75), (0.1, 0.1, 0.1), (1.0, 1.0, 1.0)):
            net.set_slope(lambdas)
            outputs.append(compiled(images(8)))
    assert graphs() == before
    assert all(not one.equal(other) for one, other in itertools.pairwise(outputs))
    net.set_slope(1.0)
    torch.testing.assert_close(outputs[-1], net(images(8)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("merge", "expected"), [(False, 1), (True, 2)])
def test_a_run_is_compiled_once_and_once_more_for_what_a_merge_makes_of_its_net(
    digits: Data, merge: bool, expected: int
) -> None:
    config = TrainingConfig.model_validate(
        {"epochs": 1, "batch_size": 100, "flip": False, "anneal": {"end": 0.5}, "merge": merge, "compile": True}
    )
    before, told = graphs(), list[Progress]()
    result = fit(TINY, digits, config, seed=0, device=CPU, progress=told.append)
    assert graphs() - before == expected
    assert len({progress.slope_min for progress in told}) >= 6
    assert result.speed is not None
    assert result.speed.compile
    assert (result.merged_at is not None) == merge
    eager = fit(TINY, digits, config.model_copy(update={"compile": False}), seed=0, device=CPU)
    assert result.train_loss == pytest.approx(eager.train_loss, rel=1e-4)
    assert graphs() - before == expected


def test_every_net_is_compiled_however_many_there_were_before() -> None:
    from torch._dynamo import config

    before, notes = graphs(), list[str]()
    with config.patch(recompile_limit=1):
        for _ in range(3):
            Compiled(made(), notes)(images(8))
    assert graphs() == before + 3
    assert notes == []


def test_batches_of_other_sizes_are_compiled_for() -> None:
    """As where memory is too small for a batch: 9, 9, 9 and 8 images instead of 35."""
    net, notes = made(), []
    compiled, before = Compiled(net, notes), graphs()
    for count in (35, 9, 8, 9, 8, 5):
        torch.testing.assert_close(compiled(images(count)), copy.deepcopy(net)(images(count)))
    assert graphs() <= before + 3
    assert notes == []


def breaks(*args: object) -> Any:
    raise AssertionError("no such instruction\nand a long story")


def broken_backward() -> Any:
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    return aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=breaks)


@pytest.mark.parametrize("which", ["forward", "backward"])
def test_where_compiling_fails_the_net_trains_as_it_is_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    if which == "backward" and not hasattr(functorch_config, "force_non_lazy_backward_lowering"):
        pytest.skip("this torch compiles the backward pass at the first backward()")
    monkeypatch.setattr(compiling, "BACKEND", breaks if which == "forward" else broken_backward())
    net, notes = made(), list[str]()
    plain = copy.deepcopy(net)
    compiled = Compiled(net, notes)
    assert compiled.works
    for _ in range(2):
        one, other = compiled(images(8)), plain(images(8))
        assert one.equal(other)
        one.sum().backward()
        other.sum().backward()
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight.grad, plain.get_parameter(name).grad, rtol=0, atol=0)
    assert net.stem.pair.bn1.num_batches_tracked == 2
    assert not compiled.works
    assert notes == [
        "torch.compile failed (AssertionError: no such instruction): the net is trained as it is, uncompiled"
    ]


def test_compiling_can_fail_for_another_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_only(graph: torch.fx.GraphModule, inputs: list[object]) -> object:
        calls.append(len(inputs))
        return graph.forward if len(calls) == 1 else breaks()

    calls: list[int] = []
    monkeypatch.setattr(compiling, "BACKEND", first_only)
    net, notes = made(), list[str]()
    compiled = Compiled(net, notes)
    for count in (8, 8, 4, 8):
        torch.testing.assert_close(compiled(images(count)), copy.deepcopy(net)(images(count)))
        assert compiled.works == (len(calls) == 1)
    assert len(notes) == 1


def test_a_run_tells_that_compiling_failed(monkeypatch: pytest.MonkeyPatch, digits: Data) -> None:
    monkeypatch.setattr(compiling, "BACKEND", breaks)
    options = {"epochs": 1, "batch_size": 500, "flip": False}
    results = [
        fit(TINY, digits, TrainingConfig.model_validate({**options, "compile": on}), seed=0, device=CPU)
        for on in (True, False)
    ]
    assert any(note.startswith("torch.compile failed") for note in results[0].notes)
    assert results[1].notes == ()
    assert results[0].train_loss == results[1].train_loss


class Failing(nn.Module):
    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        raise self.error("of the net's own")


@pytest.mark.parametrize("error", [ValueError, torch.OutOfMemoryError, RuntimeError])
def test_other_errors_are_the_nets_own(error: type[Exception]) -> None:
    notes: list[str] = []
    with pytest.raises(error, match="of the net's own"):
        Compiled(Failing(error), notes)(images(8))
    assert notes == []


def test_a_wrong_batch_is_an_error_of_the_net() -> None:
    with pytest.raises(RuntimeError, match=r"expected input.* to have 1 channels"):
        Compiled(made(), [])(torch.zeros((8, 3, 8, 8), dtype=torch.float64))


def test_what_compiling_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    lacking = why_not(CPU)
    assert lacking is not None
    assert "there is no no-such-compiler" in lacking
    monkeypatch.setattr(catalogue, "_check_compiler", lambda device_type: None)
    assert why_not(CPU) is None


def test_the_net_in_training_can_be_wrapped() -> None:
    net, notes = made(), list[str]()
    twice = functools.partial(lambda inner, x: 2.0 * inner(x), net)
    torch.testing.assert_close(Compiled(twice, notes)(images(8)), 2.0 * copy.deepcopy(net)(images(8)))
    assert notes == []
