"""What a net costs before it runs: parameters, multiply-accumulates, memory traffic, kernels.

The net runs once on the meta device, where a tensor has a shape and no data, under a mode that sees every operator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vnas.errors import ArchitectureError
from vnas.nets.architecture import Architecture
from vnas.nets.fused import FusedVanillaNet

_LAUNCH_NOTHING = frozenset(
    {
        "_unsafe_view",
        "_reshape_alias",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "sym_size",
    }
)
"""Operators of aten that allocate or reinterpret memory without being marked as views."""

_MULTIPLY = frozenset(
    {"mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "addmv", "dot", "vdot", "ger", "addr"}
    | {"attention", "lstm", "gru", "rnn", "trilinear", "cdist", "fft", "linalg"}
)
"""Words in the names of aten operators that multiply and accumulate, beside those that start with "conv"."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator that launches work, for one image.

    Attributes:
        name: in aten, without its overload.
        macs: multiply-accumulates; 0 where there is no formula.
        read_bytes: size of the tensors that it is given, weights included, whether it reads all of them or not.
        written_bytes: size of the tensors that it gives.
    """

    name: str
    macs: int
    read_bytes: int
    written_bytes: int

    @property
    def intensity(self) -> float:
        """Floating-point operations, two a multiply-accumulate, for each byte that is read or written."""
        return 2.0 * self.macs / max(1, self.read_bytes + self.written_bytes)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one image through a net in eval mode.

    Attributes:
        params: Trainable numbers.
        macs: Multiply-accumulates of convolutions and matrix products; papers often call them FLOPs.
        activation_bytes: Size of everything that the kernels write, the indices that a max pool writes included.
        weight_bytes: Size of the parameters and floating-point buffers.
        traffic_bytes: What all kernels read and write, if nothing stays in a cache: see :class:`Operator`.
        kernels: Operators that launch work; views are not counted.
        uncounted: Names of operators that may multiply and accumulate but have no formula, so that ``macs`` is too low;
            empty where the count is whole.
    """

    params: int
    macs: int
    activation_bytes: int
    weight_bytes: int
    traffic_bytes: int
    kernels: int
    uncounted: tuple[str, ...]


def cost(net: nn.Module | Architecture, image_size: int | None = None, in_chans: int | None = None) -> Cost:
    """The cost of one image (batch 1) through a net, from shapes alone.

    Nothing is computed and no weight is copied; the net is not touched. Operators are those of eager PyTorch on the
    meta device, so an attention that a device fuses is counted in its parts.

    Args:
        net: Any module that maps a (1, in_chans, H, W) batch; an Architecture stands for its fused net.
        image_size: Side of the input in pixels; None takes it from the architecture or timm's ``default_cfg``.
        in_chans: Input channels; None takes them from the net, else 3.

    Returns:
        The cost in the form the net is in: a training form costs its pairs.

    Raises:
        ArchitectureError: No image size is known, or the net cannot exist at this one.
    """
    net, counter = _counted(net, image_size, in_chans)
    params, buffers = list(net.parameters()), list(net.buffers())
    return Cost(
        params=sum(p.numel() for p in params),
        macs=sum(one.macs for one in counter.operators),
        activation_bytes=sum(one.written_bytes for one in counter.operators),
        weight_bytes=sum(_bytes(t) for t in (*params, *buffers) if t.is_floating_point()),
        traffic_bytes=sum(one.read_bytes + one.written_bytes for one in counter.operators),
        kernels=len(counter.operators),
        uncounted=tuple(sorted(counter.uncounted)),
    )


def operators(
    net: nn.Module | Architecture, image_size: int | None = None, in_chans: int | None = None
) -> tuple[Operator, ...]:
    """The operators that one image (batch 1) goes through, in their order; views are not among them.

    Arguments and errors are those of :func:`cost`.
    """
    return tuple(_counted(net, image_size, in_chans)[1].operators)


def _counted(net: nn.Module | Architecture, image_size: int | None, in_chans: int | None) -> tuple[nn.Module, _Counter]:
    """The net that an architecture stands for, or the net itself, and what was seen as one image went through it."""
    if isinstance(net, Architecture):
        arch = replace(net, image_size=net.image_size if image_size is None else image_size)
        net = FusedVanillaNet(arch, device="meta")
    side, channels = _input_shape(net, image_size, in_chans)
    floats = (tensor for tensor in (*net.parameters(), *net.buffers()) if tensor.is_floating_point())
    dtype = next((tensor.dtype for tensor in floats), None)
    image = torch.empty(1, channels, side, side, device="meta", dtype=dtype)
    counter = _Counter()
    shadow = _on_meta(net)
    with torch.no_grad(), counter:
        shadow(image)
    return net, counter


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _input_shape(net: nn.Module, image_size: int | None, in_chans: int | None) -> tuple[int, int]:
    """Side in pixels and channels: what was given, else what the architecture or timm's configuration says."""
    arch = getattr(net, "architecture", None)
    if isinstance(arch, Architecture):
        known: tuple[int, ...] | None = (arch.in_chans, arch.image_size)
    else:
        cfg = getattr(net, "pretrained_cfg", None)
        size = cfg.get("input_size") if isinstance(cfg, dict) else None
        known = None if size is None else (int(getattr(net, "in_chans", size[0])), int(size[-1]))
    if image_size is None and known is None:
        raise ArchitectureError(f"{type(net).__name__} does not say its input's size; give image_size, such as 224")
    side = known[1] if image_size is None and known is not None else image_size
    channels = in_chans if in_chans is not None else 3 if known is None else known[0]
    assert side is not None
    return side, channels


def _on_meta(net: nn.Module) -> nn.Module:
    """A copy in eval mode whose tensors are on the meta device; the structure is copied, the weights are not."""
    net = getattr(net, "_orig_mod", net)  # a compiled module holds the net it compiled
    memo: dict[int, Any] = {}
    for module in net.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                hollow = torch.empty_like(value, device="meta")
                # deepcopy takes what the memo holds instead of copying the tensor.
                memo[id(value)] = (
                    nn.Parameter(hollow, value.requires_grad) if isinstance(value, nn.Parameter) else hollow
                )
    return copy.deepcopy(net, memo).eval()


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down what every operator computes, reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            # An operator made of others counts as those; outside inference mode they arrive one by one anyway.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is None and _may_multiply(func):
            self.uncounted.add(str(func))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _LAUNCH_NOTHING:
            flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
            self.operators.append(Operator(name, flops // 2, _total_bytes((args, kwargs)), _total_bytes(out)))
        return out


def _total_bytes(values: Any) -> int:
    """Size of the tensors among some values, each once."""
    tensors = {id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}
    return sum(map(_bytes, tensors.values()))


def _may_multiply(func: Any) -> bool:
    """Whether an operator without a formula might hold multiply-accumulates: by its name, or since nobody knows it."""
    if func.namespace not in ("aten", "prim", "prims"):
        return True
    words = set(func.overloadpacket.__name__.split("_"))
    if "norm" in words:
        return False
    return not words.isdisjoint(_MULTIPLY) or any(w.startswith("conv") and w != "convert" for w in words)
