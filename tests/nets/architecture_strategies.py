"""Random small architectures, and nets whose every number is away from its initial value."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from vnas.nets import Architecture, Stage, Stem
from vnas.nets.architecture import ACTIVATIONS, PROJECTIONS, RESIDUALS


@st.composite
def architectures(draw: st.DrawFn, min_classes: int = 0) -> Architecture:
    """Any architecture the checks allow, small enough that float64 takes milliseconds."""
    image_size = draw(st.integers(8, 24))
    kernel = draw(st.integers(1, 4))
    padding = draw(st.integers(0, kernel - 1))
    stride = draw(st.integers(1, 4))
    stem = Stem(draw(st.integers(1, 12)), kernel, stride, padding, draw(st.integers(0, 3)))
    projection = draw(st.sampled_from(PROJECTIONS))
    size = (image_size + 2 * padding - kernel) // stride + 1
    width = stem.width
    stages = []
    for _ in range(draw(st.integers(1, 4))):
        stage_width = draw(st.one_of(st.just(width), st.integers(1, 12)))
        stage_stride = draw(st.integers(1, min(3, size)))
        pool_to = draw(st.one_of(st.none(), st.integers(1, size)))
        residual = draw(st.sampled_from(RESIDUALS))
        if projection == "none" and (stage_width != width or (residual == "after_activation" and stage_stride > 1)):
            residual = "none"
        stage = Stage(stage_width, stage_stride, draw(st.integers(0, 3)), residual, pool_to)
        if stage.pools:
            size = size // stage_stride if pool_to is None else pool_to
        width = stage_width
        stages.append(stage)
    return Architecture(
        stem,
        tuple(stages),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        series_shift=draw(st.booleans()),
        projection=projection,
        in_chans=draw(st.integers(1, 4)),
        image_size=image_size,
        num_classes=draw(st.integers(min_classes, 7)),
        dropout=draw(st.sampled_from([0.0, 0.2])),
    )


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter and running statistic anew, at scales that keep each map of order one; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
            if "bn" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.5 * torch.rand(parameter.shape, generator=generator))
                parameter[::3].neg_()
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + 1.5 * torch.rand(buffer.shape, generator=generator))
    return net.eval()


def images(arch: Architecture, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, arch.in_chans, arch.image_size, arch.image_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference over largest magnitude."""
    return ((one - other).abs().max() / other.abs().max().clamp_min(1e-30)).item()


SMALL = Architecture(
    Stem(8, kernel=3, stride=2, padding=1, series=1),
    (
        Stage(12, residual="before_activation"),
        Stage(10, residual="after_activation", series=0),
        Stage(10, stride=1, series=2, residual="after_activation"),
    ),
    projection="conv",
    series_shift=True,
    image_size=16,
    num_classes=5,
)
