from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vnas.nets import Architecture, Stage, Stem, VanillaNet, build, fuse, merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ARCH = Architecture(
    Stem(64, series=3),
    (
        Stage(96, residual="before_activation"),
        Stage(96, residual="after_activation", series=2),
        Stage(128, stride=1, series=1),
    ),
    projection="conv",
    series_shift=True,
    image_size=64,
    num_classes=10,
)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    yield
    matmul.fp32_precision, conv.fp32_precision = before


def finished(dtype: torch.dtype = torch.float32) -> VanillaNet:
    torch.manual_seed(0)
    net = build(ARCH, device="cuda", dtype=dtype)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            nn.init.normal_(parameter, std=fan_in**-0.5)
            if ".bn" in name and name.endswith("weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    net.set_slope(1)
    return net.eval()


def images(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 64, 64, device="cuda", dtype=dtype)


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_forms_agree(dtype: torch.dtype, tolerance: float) -> None:
    net, x = finished(dtype), images(dtype=dtype)
    with torch.no_grad():
        for other in (fuse(net), merge(net), fuse(merge(net))):
            assert all(p.is_cuda and p.dtype == dtype for p in other.parameters())
            assert distance(other(x), net(x)) < tolerance


def test_the_fused_net_runs_as_a_cuda_graph() -> None:
    net, x = fuse(finished()), images(1)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                net(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = net(x)
        x.copy_(images(1))
        graph.replay()
        torch.cuda.synchronize()
        assert distance(out, net(x)) < 1e-4


def test_a_captured_training_net_sees_a_new_slope() -> None:
    net, x = finished(), images(1)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            net(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = net(x)
        net.set_slope(0.5)
        graph.replay()
        torch.cuda.synchronize()
        assert distance(out, net(x)) < 1e-4


def test_an_nchw_image_stays_nchw_through_the_fused_net() -> None:
    net = fuse(finished().to(memory_format=torch.channels_last))
    with torch.no_grad():
        features = net.forward_features(images())
    assert features.is_contiguous()


def test_channels_last_gives_the_same_output() -> None:
    net, x = fuse(finished()), images()
    with torch.no_grad():
        expected = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert distance(last, expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_a_mixed_precision_step_trains(dtype: torch.dtype, slope: float) -> None:
    net = finished().train()
    net.set_slope(slope)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8, enabled=dtype == torch.float16)
    before = [p.detach().clone() for p in net.parameters()]
    with torch.autocast("cuda", dtype=dtype):
        loss = nn.functional.cross_entropy(net(images(16)), torch.arange(16, device="cuda") % 10)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert loss.isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.filterwarnings("default")  # inductor advises TF32, which is off here
def test_compiled_it_does_not_recompile_for_a_slope() -> None:
    net, x = finished(), images()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for slope in (0.0, 0.5, 1.0):
            net.set_slope(slope)
            assert distance(compiled(x), net(x)) < 1e-3
    torch._dynamo.reset()
