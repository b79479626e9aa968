"""Names and combinations, precisions, and what ``prepare`` makes of a callable; the runtimes have their own files."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from profiler_nets import Small, answer, images, small, tokens

from vnas.errors import MeasurementError, MissingExtraError, UsageError
from vnas.profiler.runtimes import PRECISIONS, RUNTIMES, Prepared, check, packages, prepare, torch_runtimes
from vnas.profiler.runtimes.precision import label, tf32
from vnas.profiler.runtimes.prepared import Loaded

GPU = torch.device("cuda", 0)


def on_cpu(
    callable: Callable[..., object], *inputs: object, runtime: str = "eager", precision: str | None = None
) -> Prepared:
    return prepare(callable, inputs, device="cpu", runtime=runtime, precision=precision)


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "message"),
    [
        ("eagre", None, "cpu", r"runtime 'eagre' is not known; allowed are eager, .*\. Did you mean 'eager'"),
        ("eager", "fp61", "cpu", r"precision 'fp61' is not known; allowed are fp32, .*Did you mean 'fp16'"),
        ("cuda_graph", None, "cpu", r"runtime cuda_graph does not exist on cpu, only on cuda; on cpu there are eager,"),
        ("tensorrt", "fp16", "cpu", r"runtime tensorrt does not exist on cpu, only on cuda"),
        ("openvino", None, "cuda", r"runtime openvino does not exist on cuda, only on cpu; on cuda there are eager,"),
        ("eager", "tf32", "cpu", r"runtime eager does not compute in tf32 on cpu; there it has fp32, fp16, bf16"),
        ("onnxruntime", "fp16", "cpu", r"onnxruntime does not compute in fp16 on cpu; there it has fp32"),
        ("onnxruntime", "bf16", "cuda", r"onnxruntime does not compute in bf16 on cuda; there it has fp32, tf32, fp16"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(
    runtime: str, precision: str | None, device: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check(runtime, precision, device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_needs_nothing_else(device: str) -> None:
    for precision in PRECISIONS if device == "cuda" else ("fp32", "fp16", "bf16"):
        check("eager", precision, device)
        check("channels_last", precision, device)
    assert RUNTIMES == (
        "eager", "channels_last", "cuda_graph", "compile", "compile_max_autotune", "onnxruntime", "openvino", "tensorrt"
    )  # fmt: skip


def test_on_a_gpu_the_pip_line_is_of_the_package_that_does_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    for device, package in (("cuda", "onnxruntime-gpu"), ("cpu", "onnxruntime")):
        with pytest.raises(MissingExtraError, match=rf"needs onnx, onnxscript, onnxruntime; pip install {package}$"):
            check("onnxruntime", None, device)


def test_what_a_runtime_is_made_of() -> None:
    assert packages("onnxruntime", "cuda") == ("onnx", "onnxscript", "onnxruntime")
    assert packages("openvino", "cpu") == ("onnx", "onnxscript", "openvino")
    assert (packages("compile", "cuda"), packages("compile", "cpu")) == (("triton",), ())
    assert packages("eager", "cuda") == packages("cuda_graph", "cuda") == ()


def test_a_missing_package_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install onnx onnxscript onnxruntime$"):
        check("onnxruntime", None, "cpu")


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingExtraError, match=r"there is no no-such-compiler; install one .* or name yours in CXX"):
        check("compile", None, "cpu")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match="pip install triton"):
        check("compile", None, "cuda")


def test_names_and_checks_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from vnas.profiler.runtimes import check\n"
        "check('eager', 'fp16', 'cpu')\n"
        "sys.exit(str({'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0"


def test_eager_leaves_all_as_it_is() -> None:
    net, given = small(), images()
    prepared = on_cpu(net, given)
    assert prepared.inputs[0] is given
    assert (prepared.precision, prepared.layout, prepared.error, prepared.notes) == ("fp32", "contiguous", None, ())
    assert prepared.on_stream
    assert prepared.capturable
    output = prepared.call()
    assert isinstance(output, torch.Tensor)
    assert output.detach().double().numpy() == pytest.approx(answer(net, given), rel=1e-5)


def test_eager_does_not_call_what_it_need_not_compare() -> None:
    calls = []
    for precision in (None, "fp32"):
        on_cpu(lambda values: calls.append(values), torch.zeros(2), precision=precision)
    assert not calls


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
def test_a_cast_net_has_the_rounding_error_of_its_precision(precision: str, bits: int) -> None:
    # A weight of 1 and half a unit in the last place rounds to 1 (ties to even), so that the answer is 1.
    half_a_unit = 2.0**-bits
    net = torch.nn.Linear(1, 1, bias=False).eval()
    with torch.no_grad():
        net.weight.fill_(1 + half_a_unit)
    prepared = on_cpu(net, torch.ones(1, 1), precision=precision)
    assert prepared.precision == precision
    assert prepared.error is not None
    assert prepared.error.max_relative == pytest.approx(half_a_unit / (1 + half_a_unit), rel=1e-9)
    output = prepared.call()
    assert isinstance(output, torch.Tensor)
    assert output.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@pytest.mark.parametrize("runtime", ["eager", "channels_last"])
@pytest.mark.parametrize("precision", ["fp16", None])
def test_the_callers_module_is_never_changed(runtime: str, precision: str | None) -> None:
    net, given = small(), images()
    before = copy.deepcopy(net.state_dict())
    on_cpu(net, given, runtime=runtime, precision=precision).call()
    for name, value in net.state_dict().items():
        assert value.dtype == torch.float32
        assert value.is_contiguous()
        assert torch.equal(value, before[name])
    assert given.is_contiguous()


def test_a_half_net_is_compared_with_its_fp32_copy() -> None:
    net = small().bfloat16()
    prepared = on_cpu(net, images().bfloat16())
    assert prepared.precision == "bf16"
    assert prepared.error is not None
    assert 1e-4 < prepared.error.rms_relative < 3e-2


def test_fp32_of_a_half_net_is_cast_up() -> None:
    prepared = on_cpu(small().half(), images().half(), precision="fp32")
    output = prepared.call()
    assert isinstance(output, torch.Tensor)
    assert output.dtype == torch.float32
    assert prepared.error is not None
    assert prepared.error.max_relative == 0.0


def test_a_callable_that_is_no_module_cannot_be_cast() -> None:
    with pytest.raises(UsageError, match=r"precision fp16: .* pass a module, or cast weights and inputs yourself"):
        on_cpu(torch.relu, torch.zeros(2), precision="fp16")
    prepared = on_cpu(torch.relu, torch.ones(2).half(), precision="fp16")
    assert prepared.precision == "fp16"
    assert prepared.notes == ("no numerical error: the callable is no module, so that it has no fp32 copy",)


def test_channels_last_of_weights_and_images() -> None:
    seen: list[bool] = []

    class Watched(Small):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.extend(
                tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
                for tensor in (images, self.conv.weight)
            )
            return super().forward(images)

    net, given = Watched().eval(), images()
    prepared = on_cpu(net, given, runtime="channels_last")
    seen.clear()
    output = prepared.call()
    assert seen == [True, True]
    assert prepared.layout == "channels_last"
    assert isinstance(output, torch.Tensor)
    assert output.detach().double().numpy() == pytest.approx(answer(net, given), rel=1e-5)
    assert prepared.error is not None
    assert prepared.error.max_relative < 1e-5


def test_channels_last_says_what_it_could_not_do() -> None:
    prepared = on_cpu(torch.exp, torch.zeros(2), runtime="channels_last")
    assert prepared.layout is None
    assert any("of the inputs alone" in note for note in prepared.notes)
    assert any("no input has four dimensions" in note for note in prepared.notes)


def test_integer_inputs_and_outputs_in_a_mapping() -> None:
    net, inputs = tokens()
    prepared = on_cpu(net.eval(), *inputs, precision="bf16")
    assert [tensor.dtype for tensor in prepared.inputs if isinstance(tensor, torch.Tensor)] == [
        torch.int64,
        torch.bfloat16,
    ]
    assert prepared.error is not None
    assert 0 < prepared.error.rms_relative < 1e-2


def test_an_overflow_in_fp16_is_no_speed() -> None:
    net = torch.nn.Linear(1, 1, bias=False).eval()
    with torch.no_grad():
        net.weight.fill_(300.0)
    with pytest.raises(MeasurementError, match="eager fp16: 1 of 1 values of the output are not finite"):
        on_cpu(net, torch.full((1, 1), 300.0), precision="fp16")


@pytest.mark.parametrize(
    ("callable", "reason"),
    [
        (torch.zeros_like, "zero everywhere"),
        (lambda values: values / 0, "not finite itself"),
        (lambda values: None, "returns no tensor"),
        (torch.nn.Dropout(), "training mode"),
    ],
)
def test_without_a_reference_there_is_a_note(callable: Callable[..., object], reason: str) -> None:
    prepared = on_cpu(callable, torch.ones(1, 1, 2, 2), runtime="channels_last")
    assert prepared.error is None
    assert any(note.startswith("no numerical error: ") and reason in note for note in prepared.notes)


def test_a_wrong_answer_is_not_a_quiet_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(net: Callable[..., Any], inputs: tuple[object, ...]) -> Loaded:
        return Loaded(lambda: net(*inputs) * 2, inputs)

    monkeypatch.setattr(torch_runtimes, "channels_last", doubled)
    prepared = on_cpu(small(), images(), runtime="channels_last")
    assert prepared.error is not None
    assert (prepared.error.max_relative, prepared.error.rms_relative) == pytest.approx((1.0, 1.0), rel=1e-6)
    assert prepared.notes == ("channels_last fp32: the answer is 100% (rms) away from that of eager fp32",)


def test_a_callable_that_raises_is_named_by_phase() -> None:
    with pytest.raises(MeasurementError, match="channels_last fp32: reference in eager fp32: RuntimeError: "):
        on_cpu(torch.nn.Conv2d(5, 4, 3).eval(), images(), runtime="channels_last")
    stubborn = small()
    stubborn.register_buffer("held", torch.ones(1, requires_grad=True) * 2)
    with pytest.raises(MeasurementError, match="the module cannot be copied"):
        on_cpu(stubborn, images(), runtime="channels_last")


def settings() -> tuple[str, ...]:
    backends: Any = torch.backends
    newer = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    return tuple(setting.fp32_precision for setting in newer)


@pytest.fixture
def restored() -> Any:
    backends: Any = torch.backends
    before, older = settings(), (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32)
    yield
    torch.set_float32_matmul_precision(older[0])
    backends.cudnn.allow_tf32 = older[1]
    newer = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    for setting, value in zip(newer, before, strict=True):
        setting.fp32_precision = value


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.usefixtures("restored")
def test_tf32_switches_hold_inside_and_are_restored(allowed: bool, matmul: str, convolution: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolution
    before = settings()
    with tf32(allowed):
        assert settings()[:3] == (("tf32",) * 3 if allowed else ("ieee",) * 3)
        # The older settings say the same, or torch.compile would raise when it reads them.
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed
    assert settings() == before
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (matmul, convolution)


@pytest.mark.usefixtures("restored")
def test_tf32_switches_set_by_the_newer_setting_alone_are_restored_too() -> None:
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "ieee"
    before = settings()
    for allowed in (True, False):
        with tf32(allowed):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
        assert settings() == before


@pytest.mark.usefixtures("restored")
def test_an_error_inside_restores_the_switches() -> None:
    before = settings()
    with pytest.raises(ZeroDivisionError), tf32(True):
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.usefixtures("restored")
def test_fp32_and_tf32_hold_their_switches_around_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def net(values: torch.Tensor) -> torch.Tensor:
        seen.append(settings()[:2])
        return values + 1

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    prepared = prepare(net, (torch.ones(2),), device=GPU, runtime="eager", precision="tf32")
    with prepared.active():
        prepared.call()
    assert seen == [("ieee", "ieee"), ("tf32", "tf32"), ("tf32", "tf32")]  # reference, comparison, the call
    assert prepared.error is not None
    seen.clear()
    prepared = prepare(net, (torch.ones(2),), device=GPU, runtime="eager", precision="fp32")
    with prepared.active():
        prepared.call()
    assert seen == [("ieee", "ieee")]
    assert prepared.error is None


@pytest.mark.usefixtures("restored")
def test_a_gpu_whose_switch_is_on_computes_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = (8, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    values = (torch.ones(2),)
    # torch's own default: on in convolutions, off in matrix products.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    assert label(torch.relu, values, GPU) == "tf32"
    assert label(torch.relu, values, torch.device("cpu")) == "fp32"
    torch.backends.cudnn.allow_tf32 = False
    assert label(torch.relu, values, GPU) == "fp32"
    torch.set_float32_matmul_precision("high")
    assert label(torch.relu, values, GPU) == "tf32"
    generation = (7, 5)
    assert label(torch.relu, values, GPU) == "fp32"
    with pytest.raises(UsageError, match="precision tf32: this GPU has none"):
        prepare(torch.relu, values, device=GPU, runtime="eager", precision="tf32")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, "fp32"),
        (torch.float16, "fp16"),
        (torch.bfloat16, "bf16"),
        (torch.float64, "float64"),
        (torch.int64, None),
    ],
)
def test_the_label_is_that_of_the_inputs(dtype: torch.dtype, expected: str | None) -> None:
    assert label(torch.abs, (torch.ones(2, dtype=dtype),), torch.device("cpu")) == expected


def test_the_label_is_that_of_the_parameters_where_inputs_have_none() -> None:
    net = torch.nn.Embedding(3, 2).bfloat16()
    assert label(net, (torch.zeros(1, dtype=torch.int64),), torch.device("cpu")) == "bf16"


def test_a_cuda_graph_replays_over_inputs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[object] = []

    def capture(device: torch.device, call: Callable[[], None]) -> Callable[[], None]:
        assert device == GPU
        call()
        return lambda: replays.append(None)

    monkeypatch.setattr(torch_runtimes, "capture_graph", capture)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    net, given = small(), images()
    prepared = prepare(net, (given,), device=GPU, runtime="cuda_graph", precision="fp32")
    replays.clear()
    output = prepared.call()
    assert len(replays) == 1
    assert isinstance(output, torch.Tensor)
    assert output.double().numpy() == pytest.approx(answer(net, given), rel=1e-5)
    assert prepared.inputs[0] is not given
    assert (prepared.on_stream, prepared.capturable) == (True, False)
    assert prepared.error is not None
    assert prepared.error.max_relative < 1e-6


def test_a_call_that_cannot_be_captured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(device: torch.device, call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(torch_runtimes, "capture_graph", refusing)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(
        MeasurementError,
        match=r"cuda_graph fp16: the call cannot be captured: RuntimeError: operation not permitted .* capturing$",
    ):
        prepare(small(), (images(),), device=GPU, runtime="cuda_graph", precision="fp16")
