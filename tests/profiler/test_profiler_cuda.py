"""``measure`` on a GPU of arithmetic, put where torch.cuda is: what is wired to what. tests/gpu has the real thing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from simulated_gpu import SimulatedEvent, SimulatedGpu

from vnas.errors import MeasurementError
from vnas.profiler import cuda, energy, measure, runtimes
from vnas.profiler.runtimes import Prepared
from vnas.profiler.telemetry import Snapshot
from vnas.profiler.timers import EnqueueTimer, HostTimer

UUID = "00000000-1111-2222-3333-444444444444"


class Side:
    """A stream that remembers what it waited for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited: list[str] = []

    def wait_stream(self, other: Side) -> None:
        self.waited.append(other.name)

    def __eq__(self, other: object) -> bool:
        return other == self.name

    __hash__ = None  # type: ignore[assignment]


class Card(SimulatedGpu):
    """Adds to the arithmetic what torch.cuda has: streams, graphs, the name."""

    def __init__(self) -> None:
        super().__init__(kernels=10, launch_ns=10_000, kernel_ns=2_000)
        self.stream = Side("stream")
        self.side = Side("side")
        self.side_calls = 0
        self.refuse = False
        self.watts = (50.0, 250.0)  # idle, and what work adds

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = self

        class Graph:
            def __init__(self) -> None:
                self.replay = card.capture(card.call)

        @contextmanager
        def on_stream(stream: Side) -> Iterator[None]:
            assert stream is card.side
            before = card.calls
            yield
            card.side_calls += card.calls - before

        @contextmanager
        def graph(target: Graph, capture_error_mode: str) -> Iterator[None]:
            if card.refuse:
                raise RuntimeError("cannot be captured")
            yield

        @contextmanager
        def telemetry(uuid: str) -> Iterator[SimpleNamespace]:
            assert uuid == UUID
            seen = Snapshot(uuid=f"GPU-{UUID}", driver="580.1", event_reasons=(), other_processes=0)
            yield SimpleNamespace(snapshot=lambda: seen, glance=lambda: seen, energy_counter=lambda: CardCounter(card))

        def event(enable_timing: bool) -> SimulatedEvent:
            assert enable_timing
            return SimulatedEvent(card)

        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_name": lambda device: "A Card",
            "get_device_properties": lambda index: SimpleNamespace(uuid=UUID),
            "get_device_capability": lambda index=None: (9, 0),
            "device": lambda device: nullcontext(),
            "Event": event,
            "current_stream": lambda device: card.stream,
            "synchronize": lambda device: card.synchronize(),
            "Stream": lambda device: card.side,
            "stream": on_stream,
            "CUDAGraph": Graph,
            "graph": graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(cuda, "open_gpu", telemetry)


class CardCounter:
    """Steps every tenth of a second."""

    source = "nvml"
    reason = None

    def __init__(self, card: Card) -> None:
        self._card = card
        self._step = -1
        self._energy_mj = 0.0

    def read_mj(self) -> float:
        card = self._card
        if card.now_ns // 10**8 != self._step:
            self._step = card.now_ns // 10**8
            idle, busy = card.watts
            self._energy_mj = (idle * card.now_ns + busy * card.worked_ns) / 1e6
        return self._energy_mj


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    made.put_in_place(monkeypatch)
    return made


def test_events_give_the_samples_and_the_graph_its_own_time(card: Card) -> None:
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.5)
    assert result.timer == "cuda events"
    assert result.device == "cuda:0"
    assert result.median_ms == pytest.approx(0.102)  # the algebra is in test_profiler_protocol
    assert result.graph_ms == pytest.approx(0.030)
    assert result.host_ms is not None
    assert result.enqueue_ms is not None
    assert len(result.host_samples_ms) == len(result.enqueue_samples_ms) == 50
    assert (result.throttled, result.contention, result.other_cpus) == (False, "no", None)
    environment = result.environment
    assert (environment.device_kind, environment.device_type) == ("A Card", "cuda")
    assert (environment.device_id, environment.driver) == (f"GPU-{UUID}", "580.1")


def test_capture_is_warmed_up_on_a_stream_of_its_own(card: Card) -> None:
    measure(card.call, device="cuda", min_seconds=0.0, max_warmup_seconds=0.1)
    assert card.side_calls == cuda.GRAPH_WARM_UP
    assert card.side.waited == ["stream"]
    assert card.stream.waited == ["side"]


def test_a_capture_that_fails_costs_the_graph_time_alone(card: Card) -> None:
    card.refuse = True
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.1)
    assert result.graph_ms is None
    assert result.median_ms == pytest.approx(0.102)
    assert "no graph replay time: graph: the callable raised RuntimeError: cannot be captured" in result.notes


def test_without_nvml_the_uuid_is_that_of_cuda(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = SimpleNamespace(snapshot=lambda: Snapshot(notes=("silent",)), glance=lambda: Snapshot(full=False))
    monkeypatch.setattr(cuda, "open_gpu", lambda uuid: nullcontext(silent))
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.1)
    assert (result.environment.device_id, result.environment.driver) == (UUID, None)
    assert (result.throttled, result.contention) == (None, "unknown")
    assert "silent" in result.notes


def on_the_cards_clock(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        card.now_ns += round(seconds * 1e9)

    real = functools.partial(energy.measure_energy, clock=lambda: card.now_ns / 1e9, sleep=sleep)
    monkeypatch.setattr(energy, "measure_energy", real)


def test_energy_is_that_of_the_cards_counter(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cards_clock(card, monkeypatch)
    card.kernels, card.launch_ns, card.kernel_ns = 1, 1_000_000, 9_000_000
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.1, energy_seconds=2.0)
    found = result.energy
    assert found is not None, result.notes
    assert (found.source, found.idle_w) == ("nvml", pytest.approx(50.0, rel=0.01))
    assert found.window_seconds >= 2.0
    # 9 ms of work at 250 W above idle.
    assert found.net_mj == pytest.approx(2250.0, rel=0.05)
    assert result.energy_mj == found.gross_mj > found.net_mj


def test_a_card_without_a_counter_has_no_energy_and_says_why(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Snapshot(event_reasons=(), other_processes=0)
    silent = SimpleNamespace(snapshot=lambda: seen, glance=lambda: seen, energy_counter=lambda: "no energy: none")
    monkeypatch.setattr(cuda, "open_gpu", lambda uuid: nullcontext(silent))
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.1, energy_seconds=1.0)
    assert result.energy is None
    assert "no energy: none" in result.notes


def test_work_beside_torchs_stream_is_timed_end_to_end(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cards_clock(card, monkeypatch)
    # As ONNX Runtime's or TensorRT's: nothing of it lies between torch's events.
    card.kernels, card.side_ns = 0, 5_000_000

    def prepare(call: Callable[[], object], inputs: tuple[object, ...], **more: object) -> Prepared:
        return Prepared(call, inputs, "fp32", None, on_stream=False)

    monkeypatch.setattr(runtimes, "prepare", prepare)
    monkeypatch.setattr(cuda, "HostTimer", lambda synchronize: HostTimer(synchronize, card.clock))
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.5, energy_seconds=2.0)
    assert (result.timer, result.valid) == ("host end to end", True)
    assert result.samples_ms == pytest.approx([5.0] * result.n)
    assert (result.host_ms, result.enqueue_ms, result.graph_ms, result.launch_bound) == (None, None, None, None)
    assert (result.throttled, result.contention) == (False, "no")
    assert result.energy is not None
    assert result.energy.net_mj == pytest.approx(1250.0, rel=0.05)


def test_work_that_torchs_stream_does_not_wait_for_is_not_valid(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "HostTimer", lambda synchronize: HostTimer(synchronize, card.clock))
    monkeypatch.setattr(cuda, "EnqueueTimer", lambda synchronize: EnqueueTimer(synchronize, card.clock))
    card.side_ns = 5_000_000
    result = measure(card.call, device="cuda:0", min_seconds=0.0, max_warmup_seconds=0.5)
    assert result.median_ms == pytest.approx(0.102)
    assert result.host_ms == pytest.approx(5.1)
    assert not result.valid
    assert any(note.startswith("INVALID: the call does work that the events") for note in result.notes)


@pytest.mark.usefixtures("card")
def test_an_input_left_on_the_cpu_is_refused() -> None:
    with pytest.raises(
        MeasurementError, match=r"input 0 is on cpu, the measurement on cuda:0; pass input.to\('cuda:0'"
    ):
        measure(torch.relu, torch.zeros(2), device="cuda:0")
