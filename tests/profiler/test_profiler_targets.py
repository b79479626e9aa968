from __future__ import annotations

import pytest
import torch

from vnas.errors import UsageError
from vnas.profiler.targets import find_target, materialise

HERE = "profiler_nets"


def test_a_net_gets_images_of_its_size_and_batch() -> None:
    net, inputs = materialise(find_target(f"{HERE}:small", 12), 3, "cpu")
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    (images,) = inputs
    assert isinstance(images, torch.Tensor)
    assert images.shape == (3, 3, 12, 12)
    assert net(images).shape == (3, 5)


def test_every_process_gets_the_same_images() -> None:
    target = find_target("profiler_callables:doubling", 8)
    first, second = (materialise(target, 1, "cpu")[1][0] for _ in range(2))
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert torch.equal(first, second)
    assert first.std() > 0.5


def test_a_function_may_bring_its_own_inputs() -> None:
    target = find_target(f"{HERE}:tokens")
    net, inputs = materialise(target, 1, torch.device("cpu"))
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    tokens, scale = inputs
    assert isinstance(tokens, torch.Tensor)
    assert (tokens.shape, tokens.dtype) == ((1, 6), torch.int64)
    assert isinstance(scale, torch.Tensor)
    assert net(tokens, scale)["scaled"].shape == (1, 6, 4)
    assert isinstance(target.build(), torch.nn.Module)


def test_net_and_inputs_go_to_the_device() -> None:
    net, inputs = materialise(find_target(f"{HERE}:tokens"), 1, "meta")
    assert isinstance(net, torch.nn.Module)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
    assert all(isinstance(value, torch.Tensor) and value.device.type == "meta" for value in inputs)


@pytest.mark.parametrize(("size", "batch", "option"), [(64, 1, "--image-size 64"), (None, 4, "--batch 4")])
def test_options_of_images_are_refused_where_there_are_none(size: int | None, batch: int, option: str) -> None:
    with pytest.raises(UsageError, match=f"tokens brings inputs of its own; leave out {option}"):
        materialise(find_target(f"{HERE}:tokens", size), batch, "cpu")


def test_inputs_must_be_a_tuple() -> None:
    with pytest.raises(UsageError, match=r"returned inputs of type Tensor; .* e\.g\. \(net, \(tokens,\)\)"):
        find_target(f"{HERE}:with_one_tensor").build()


def test_the_first_of_a_pair_must_be_callable() -> None:
    with pytest.raises(UsageError, match="returned a int; it must return something that can be called"):
        find_target(f"{HERE}:pair_without_a_callable").build()
