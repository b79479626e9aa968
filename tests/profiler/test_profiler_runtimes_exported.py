"""ONNX Runtime and OpenVINO, really run on the CPU; their GPU and TensorRT by stand-ins that record and compute."""

from __future__ import annotations

import ctypes
import sys
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from profiler_nets import answer, images, small, tokens

from vnas.errors import MeasurementError, MissingExtraError, UsageError
from vnas.profiler.runtimes import Prepared, onnxruntime, openvino, prepare, tensorrt
from vnas.profiler.runtimes.exporting import bound, export

pytest.importorskip("onnxscript", reason="needs the onnx extra")

GPU = torch.device("cuda", 0)

_graphs: dict[object, bytes] = {}


def _export_once(net: Any, inputs: tuple[Any, ...]) -> tuple[bytes, list[torch.Tensor]]:
    """An export takes a second or two; ``small`` is always the same."""
    key = (type(net), inputs[0].dtype)
    if key not in _graphs:
        _graphs[key] = export(net, inputs)[0]
    return _graphs[key], list(inputs)


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what comes after the export."""
    for runtime in (onnxruntime, openvino, tensorrt):
        monkeypatch.setattr(runtime, "export", _export_once)


def on_cpu(runtime: str, precision: str | None = None, threads: int = 1) -> tuple[Prepared, Any]:
    net, given = small(), images()
    prepared = prepare(net, (given,), device="cpu", runtime=runtime, precision=precision, threads=threads)
    return prepared, answer(net, given)


def test_onnxruntime_gives_the_answer_of_numpy() -> None:
    pytest.importorskip("onnxruntime")
    prepared, expected = on_cpu("onnxruntime")
    (output,) = onnxruntime._outputs(prepared.call())
    assert output.double().numpy() == pytest.approx(expected, rel=1e-5)
    assert prepared.error is not None
    assert prepared.error.max_relative < 1e-5
    assert (prepared.precision, prepared.layout, prepared.notes) == ("fp32", "contiguous", ())
    assert (prepared.on_stream, prepared.capturable) == (False, False)


@pytest.mark.usefixtures("exported_once")
def test_onnxruntime_computes_anew_at_every_call() -> None:
    pytest.importorskip("onnxruntime")
    given = images()
    net = small()
    prepared = prepare(net, (given,), device="cpu", runtime="onnxruntime", precision=None)
    given.mul_(-2.0)
    (output,) = onnxruntime._outputs(prepared.call())
    assert output.double().numpy() == pytest.approx(answer(net, given), rel=1e-5)


@pytest.mark.usefixtures("exported_once")
def test_onnxruntime_gets_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    asked: list[tuple[int, int]] = []

    class Watched(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, graph: bytes, options: Any, providers: Any) -> None:
            asked.append((options.intra_op_num_threads, options.inter_op_num_threads))
            assert providers == [("CPUExecutionProvider", {})]
            super().__init__(graph, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", Watched)
    on_cpu("onnxruntime", threads=3)
    assert asked == [(3, 1)]


def test_several_inputs_and_outputs_keep_their_order() -> None:
    pytest.importorskip("onnxruntime")
    net, inputs = tokens()
    prepared = prepare(net.eval(), inputs, device="cpu", runtime="onnxruntime", precision=None)
    assert prepared.error is not None
    assert prepared.error.max_relative < 1e-6


@pytest.mark.usefixtures("exported_once")
def test_a_deliberately_wrong_output_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    honest = onnxruntime._outputs
    monkeypatch.setattr(onnxruntime, "_outputs", lambda binding: [honest(binding)[0] * 1.5])
    prepared, _ = on_cpu("onnxruntime")
    assert prepared.error is not None
    assert prepared.error.rms_relative == pytest.approx(0.5, rel=1e-5)
    assert prepared.notes == ("onnxruntime fp32: the answer is 50% (rms) away from that of eager fp32",)


def test_openvino_gives_the_answer_of_numpy() -> None:
    pytest.importorskip("openvino")
    prepared, expected = on_cpu("openvino")
    result: Any = prepared.call()
    assert np.asarray(result[0], dtype=np.float64) == pytest.approx(expected, rel=1e-5)
    assert prepared.error is not None
    assert prepared.error.max_relative < 1e-5
    assert (prepared.precision, prepared.layout, prepared.on_stream) == ("fp32", "contiguous", False)


@pytest.mark.usefixtures("exported_once")
def test_openvino_in_bf16_is_seen_in_the_error_or_refused() -> None:
    ov = pytest.importorskip("openvino")
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        prepared, _ = on_cpu("openvino", "bf16")
        assert prepared.precision == "bf16"
        assert prepared.error is not None
        assert 1e-4 < prepared.error.rms_relative < 3e-2
    else:
        with pytest.raises(UsageError, match="this CPU has no bf16"):
            on_cpu("openvino", "bf16")


@pytest.mark.usefixtures("exported_once")
def test_openvino_takes_a_half_net_as_fp32_and_computes_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ov = pytest.importorskip("openvino")
    asked: list[dict[str, object]] = []
    honest = ov.Core

    class Core:
        """Compiles in fp32 whatever is asked for, as on a CPU that has nothing else."""

        def read_model(self, graph: bytes) -> Any:
            return honest().read_model(graph)

        def compile_model(self, model: Any, device: str, options: dict[str, object]) -> Any:
            asked.append(options)
            assert model.inputs[0].get_element_type().get_type_name() == "f32"
            return honest().compile_model(model, device, {**options, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(ov, "Core", Core)
    with pytest.raises(UsageError, match=r"OpenVINO computes in f32 where fp16 is asked for: this CPU has no fp16"):
        prepare(small().half(), (images().half(),), device="cpu", runtime="openvino", precision=None, threads=1)
    assert asked == [
        {
            "INFERENCE_PRECISION_HINT": "f16",
            "INFERENCE_NUM_THREADS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
    ]
    assert openvino.HINTS["bf16"] == "bf16"


class Branching(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.sum() > 0 else values * 2


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_cannot_be_exported_says_so(runtime: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(runtime)
    with pytest.raises(MeasurementError, match=f"^{runtime} fp32: export to ONNX: [A-Za-z]+: [^\n\x1b]+$"):
        prepare(Branching().eval(), (torch.ones(2),), device="cpu", runtime=runtime, precision=None)
    capfd.readouterr()  # the exporter's own report


def test_only_modules_in_eval_mode_are_exported() -> None:
    with pytest.raises(UsageError, match=r"only a torch\.nn\.Module can be exported"):
        export(torch.relu, (torch.ones(2),))
    with pytest.raises(UsageError, match=r"training mode, .* call \.eval\(\) first"):
        export(small().train(), (images(),))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float64, "runtime onnxruntime computes in fp32, tf32, fp16, bf16; this module is float64"),
        (torch.float16, "runtime onnxruntime does not compute in fp16 on cpu"),
    ],
)
def test_a_net_in_a_precision_that_the_runtime_lacks_is_refused(dtype: torch.dtype, message: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match=message):
        prepare(small().to(dtype), (images().to(dtype),), device="cpu", runtime="onnxruntime", precision=None)


def test_as_many_inputs_as_tensors() -> None:
    with pytest.raises(MeasurementError, match=r"the exported graph has 1 inputs \(x\), for 2 tensors"):
        bound(["x"], [torch.ones(1), torch.ones(1)])


def test_onnxruntime_without_a_gpu_comes_with_the_pip_line() -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime does GPUs")
    with pytest.raises(MissingExtraError, match=r"has no CUDAExecutionProvider; .*pip install onnxruntime-gpu"):
        prepare(small(), (images(),), device=GPU, runtime="onnxruntime", precision="fp32")


class FakeGpuSession:
    """An onnxruntime with a GPU: records what is bound, and answers as the graph's first output would be."""

    loaded = "CUDAExecutionProvider"

    def __init__(self, graph: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.providers = providers
        self.bound_inputs: list[tuple[object, ...]] = []
        self.bound_outputs: list[tuple[object, ...]] = []

    def get_providers(self) -> list[str]:
        return [self.loaded]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="logits")]

    def io_binding(self) -> FakeGpuSession:
        return self

    def bind_input(self, *arguments: object) -> None:
        self.bound_inputs.append(arguments)

    def bind_output(self, *arguments: object) -> None:
        self.bound_outputs.append(arguments)

    def run_with_iobinding(self, binding: FakeGpuSession) -> None:
        assert binding is self


def put_gpu_session_in_place(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    stand_in = SimpleNamespace(
        __version__="1.0",
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        SessionOptions=SimpleNamespace,
        InferenceSession=FakeGpuSession,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    return waited


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize(("precision", "flag"), [("fp32", "0"), ("tf32", "1"), ("fp16", "0")])
def test_onnxruntime_on_a_gpu_is_bound_to_torchs_memory(
    monkeypatch: pytest.MonkeyPatch, precision: str, flag: str
) -> None:
    waited = put_gpu_session_in_place(monkeypatch)
    given = images().half() if precision == "fp16" else images()
    loaded = onnxruntime.load(small().to(given.dtype), (given,), GPU, precision, 1)
    session: Any = loaded.call()
    assert session.providers == [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": flag})]
    dtype = np.dtype("float16" if precision == "fp16" else "float32")
    assert session.bound_inputs == [("images", "cuda", 0, dtype, (2, 3, 10, 10), given.data_ptr())]
    assert session.bound_outputs == [("logits", "cuda", 0)]
    assert waited == [GPU]
    assert not loaded.on_stream


@pytest.mark.usefixtures("exported_once")
def test_onnxruntime_that_falls_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpu_session_in_place(monkeypatch)
    monkeypatch.setattr(FakeGpuSession, "loaded", "CPUExecutionProvider")
    with pytest.raises(MeasurementError, match="CUDAExecutionProvider did not load, CPUExecutionProvider took"):
        onnxruntime.load(small(), (images(),), GPU, "fp32", 1)


class FakeTensorrt(SimpleNamespace):
    """As much of tensorrt as is used. Its engine computes the graph with onnx's own evaluator, on raw addresses."""

    def __init__(self) -> None:
        onnx = pytest.importorskip("onnx")
        evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
        self.flags: list[str] = []
        self.network_flags: list[int] = []
        self.streams: list[int] = []
        self.works = True
        fake = self

        class Mode(Enum):
            INPUT = 0
            OUTPUT = 1

        class Creation(IntEnum):
            EXPLICIT_BATCH = 0
            STRONGLY_TYPED = 1

        class Parser:
            def __init__(self, network: SimpleNamespace, logger: object) -> None:
                self.network = network

            def parse(self, graph: bytes) -> bool:
                self.network.graph = graph
                return fake.works

            def get_error(self, index: int) -> SimpleNamespace:
                return SimpleNamespace(desc=lambda: "no importer for Odd")

        class Builder:
            def __init__(self, logger: object) -> None:
                pass

            def create_network(self, flags: int) -> SimpleNamespace:
                fake.network_flags.append(flags)
                return SimpleNamespace(graph=b"")

            def create_builder_config(self) -> SimpleNamespace:
                return SimpleNamespace(
                    set_flag=lambda flag: fake.flags.append(f"+{flag}"),
                    clear_flag=lambda flag: fake.flags.append(f"-{flag}"),
                )

            def build_serialized_network(self, network: SimpleNamespace, config: object) -> bytes:
                graph: bytes = network.graph
                return graph

        class Engine:
            def __init__(self, plan: bytes) -> None:
                self.model = onnx.load_model_from_string(plan)
                graph = self.model.graph
                # Outputs before inputs, since no order is promised.
                self.values = {value.name: value for value in (*graph.output, *graph.input)}
                self.names = list(self.values)
                self.outputs = [value.name for value in graph.output]
                self.num_io_tensors = len(self.names)
                self.addresses: dict[str, int] = {}

            def create_execution_context(self) -> Engine:
                return self

            def get_tensor_name(self, index: int) -> str:
                return self.names[index]

            def get_tensor_mode(self, name: str) -> Mode:
                return Mode.OUTPUT if name in self.outputs else Mode.INPUT

            def get_tensor_dtype(self, name: str) -> SimpleNamespace:
                kind = onnx.TensorProto.DataType.Name(self.values[name].type.tensor_type.elem_type)
                return SimpleNamespace(name={"FLOAT16": "HALF", "BFLOAT16": "BF16"}.get(kind, kind))

            def get_tensor_shape(self, name: str) -> list[int]:
                return [size.dim_value for size in self.values[name].type.tensor_type.shape.dim]

            def set_tensor_address(self, name: str, address: int) -> None:
                self.addresses[name] = address

            def array(self, name: str) -> Any:
                shape, kind = self.get_tensor_shape(name), self.get_tensor_dtype(name).name
                dtype = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}[kind]
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                memory = (ctypes.c_char * size).from_address(self.addresses[name])
                return np.frombuffer(memory, dtype=dtype).reshape(shape)

            def execute_async_v3(self, stream: int) -> bool:
                fake.streams.append(stream)
                feeds = {name: self.array(name) for name in self.names if name not in self.outputs}
                for name, value in zip(self.outputs, evaluator(self.model).run(None, feeds), strict=True):
                    self.array(name)[...] = value
                return fake.works

        class Logger:
            ERROR = 1

            def __init__(self, severity: int) -> None:
                pass

        super().__init__(
            Logger=Logger,
            Builder=Builder,
            OnnxParser=Parser,
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=Engine),
            TensorIOMode=Mode,
            NetworkDefinitionCreationFlag=Creation,
            BuilderFlag=SimpleNamespace(TF32="TF32"),
        )


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorrt:
    fake = FakeTensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    return fake


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize(("precision", "flag"), [("fp32", "-TF32"), ("tf32", "+TF32"), ("fp16", "-TF32")])
def test_tensorrt_runs_the_graph_on_torchs_stream_and_memory(trt: FakeTensorrt, precision: str, flag: str) -> None:
    net, given = small(), images()
    expected = answer(net, given)
    if precision == "fp16":
        net, given = net.half(), given.half()
    loaded = tensorrt.load(net, (given,), torch.device("cpu"), precision)
    assert (trt.flags, trt.network_flags) == ([flag], [2])
    output: Any = loaded.call()
    assert trt.streams == [7]
    assert output[0].dtype == given.dtype
    assert output[0].double().numpy() == pytest.approx(expected, rel=1e-5 if precision != "fp16" else 1e-2, abs=1e-3)
    assert loaded.on_stream
    assert not loaded.capturable


def test_tensorrt_with_several_inputs_and_outputs(trt: FakeTensorrt) -> None:
    net, inputs = tokens()
    loaded = tensorrt.load(net.eval(), inputs, torch.device("cpu"), "fp32")
    output: Any = loaded.call()
    expected = net(*inputs)
    assert torch.equal(output[0], expected["scaled"])
    assert output[1].numpy() == pytest.approx(expected["sum"].detach().numpy(), abs=1e-6)


@pytest.mark.usefixtures("exported_once")
def test_tensorrt_says_what_it_could_not_do(trt: FakeTensorrt) -> None:
    loaded = tensorrt.load(small(), (images(),), torch.device("cpu"), "fp32")
    trt.works = False
    with pytest.raises(MeasurementError, match="did not run the engine"):
        loaded.call()
    with pytest.raises(MeasurementError, match="cannot parse the exported graph: no importer for Odd"):
        tensorrt.load(small(), (images(),), torch.device("cpu"), "fp32")
