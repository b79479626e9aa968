import copy
import dataclasses
import gc

import pytest
import torch
from architecture_strategies import SMALL, architectures, distance, images, randomise
from hypothesis import given, settings
from torch import nn
from torch._dynamo.testing import CompileCounter

from vnas.nets import VanillaNet, build, fuse, merge
from vnas.nets.base import PlainNet

X = images(SMALL, dtype=torch.float32)


def script(net: nn.Module) -> torch.jit.ScriptModule:
    """Script a net as if nothing else had run in this process.

    torch keeps its builtin functions by `id` and keeps the ids of those that it has replaced (`_refresh_packet`). An
    attribute of a net that happens to lie at such an address is then taken for the function, and scripting fails.
    """
    table = torch.jit._builtins._get_builtin_table()
    alive = {id(thing) for thing in gc.get_objects() if callable(thing)}
    alive.update(id(function) for function, _ in torch.jit._builtins._builtin_ops)
    for address in table.keys() - alive:
        del table[address]
    return torch.jit.script(net)


def forms(arch=SMALL) -> list[PlainNet]:  # type: ignore[no-untyped-def]
    net = build(arch)
    randomise(net)
    net.set_slope(1)
    return [net, merge(net), fuse(net)]


@pytest.fixture(params=[0, 1, 2], ids=["training", "merged", "fused"])
def net(request: pytest.FixtureRequest) -> PlainNet:
    return forms()[request.param]


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.*deprecated:FutureWarning", "ignore:`torch.jit.*deprecated:DeprecationWarning"
)
@given(architectures())
@settings(deadline=None, max_examples=5)
def test_script_and_trace(arch) -> None:  # type: ignore[no-untyped-def]
    x = images(arch, dtype=torch.float32)
    for form in forms(arch):
        for made in (script(form), torch.jit.trace(form, x)):
            torch.testing.assert_close(made(x), form(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning", "ignore:.torch.jit.script:FutureWarning")
def test_a_scripted_net_has_the_parts_that_timm_calls(net: PlainNet) -> None:
    scripted = script(net)
    features = scripted.forward_features(X)
    torch.testing.assert_close(scripted.forward_head(features, pre_logits=True), features.mean((2, 3)))


def test_fx(net: PlainNet) -> None:
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(X), net(X))
    assert any(node.op == "call_module" for node in traced.graph.nodes)


def test_export_keeps_the_output_and_takes_any_batch(net: PlainNet) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (X,), dynamic_shapes={"x": {0: batch}})
    more = images(SMALL, batch=5, dtype=torch.float32)
    torch.testing.assert_close(program.module()(more), net(more))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_new_slope_does_not_recompile(activation: str) -> None:
    net = build(dataclasses.replace(SMALL, activation=activation))
    randomise(net)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for value in (0.0, 0.3, [0.1, 0.2, 0.3, 0.4, 0.5], 1.0):
        compiled.set_slope(value)
        assert distance(compiled(X), net(X)) < 1e-6
    assert counter.frame_count == 1
    assert net.slopes == (1.0,) * 5
    torch._dynamo.reset()


def test_an_exported_training_net_reads_the_slope_as_state() -> None:
    net = build(SMALL)
    randomise(net)
    program = torch.export.export(net, (X,))
    assert "stem.pair.act.slope" in program.state_dict


def test_autocast_trains() -> None:
    net = copy.deepcopy(forms()[0]).train()
    assert isinstance(net, VanillaNet)
    for slope in (0.5, 1.0):
        net.set_slope(slope)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(net(images(SMALL, 8, torch.float32)), torch.arange(8) % 5)
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_channels_last_gives_the_same_output(net: PlainNet) -> None:
    expected = net(X)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(X.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)
