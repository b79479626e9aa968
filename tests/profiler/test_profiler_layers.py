from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_gpu import SimulatedEvent, SimulatedGpu
from torch import Tensor, nn

from vnas.errors import MeasurementError, UsageError
from vnas.profiler import layers
from vnas.profiler.layer_kernels import MARK, NO_KERNELS, count_kernels, kernels_by_module
from vnas.profiler.layer_table import (
    COLUMNS,
    GPU_COLUMNS,
    LayerBreakdown,
    LayerRow,
    breakdown_columns,
    breakdown_rows,
    check_line,
)
from vnas.profiler.layer_timing import ClockMarks, EventMarks, Trace, Tracer
from vnas.profiler.layer_turns import middle_half, quartiles
from vnas.profiler.layers import layer_breakdown
from vnas.profiler.lock import Held

MS = 1_000_000  # nanoseconds


class FakeClock:
    """Goes forward only by what a module takes, and by ``read_ns`` each time it is read."""

    def __init__(self, read_ns: int = 0) -> None:
        self.now = 0
        self.read_ns = read_ns

    def __call__(self) -> int:
        self.now += self.read_ns
        return self.now


class Busy(nn.Module):
    """Takes a time of its own, then calls its children in order, and takes the same time again after each."""

    def __init__(self, clock: FakeClock, ns: int, *children: nn.Module) -> None:
        super().__init__()
        self.clock = clock
        self.ns = ns
        self.parts = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.ns
        for part in self.parts:
            x = part(x)
            self.clock.now += self.ns
        return x


X = torch.zeros(1)


def times(breakdown: LayerBreakdown) -> dict[str, float]:
    return {row.path: row.exclusive_ms for row in breakdown.rows}


def trace_of(net: nn.Module, clock: FakeClock) -> Trace:
    tracer = Tracer(list(net.modules()), ClockMarks(clock))
    with tracer.attached():
        return tracer.trace(lambda: net(X))


def test_each_module_has_its_own_time_and_what_is_between_children_is_the_parents() -> None:
    clock = FakeClock()
    net = Busy(clock, MS, Busy(clock, 2 * MS), Busy(clock, 3 * MS, Busy(clock, 5 * MS))).eval()
    result = layer_breakdown(net, X, calls=8, clock=clock)
    assert times(result) == {
        "": 3.0, "parts": 0.0, "parts.0": 2.0, "parts.0.parts": 0.0,
        "parts.1": 6.0, "parts.1.parts": 0.0, "parts.1.parts.0": 5.0, "parts.1.parts.0.parts": 0.0,
    }  # fmt: skip
    assert (result.total_ms, result.plain_ms, result.difference) == (16.0, 16.0, 0.0)
    assert (result.calls, result.device, result.timer) == (8, "cpu", "perf_counter_ns")
    assert result.notes == ()
    assert {row.path: row.share for row in result.rows}["parts.0"] == 2 / 16
    assert all(row.kernels is None for row in result.rows)


def trees(clock: FakeClock) -> st.SearchStrategy[nn.Module]:
    own = st.integers(0, 10**6)
    return st.recursive(
        own.map(lambda ns: Busy(clock, ns)),
        lambda inner: st.tuples(own, st.lists(inner, max_size=3)).map(lambda t: Busy(clock, t[0], *t[1])),
        max_leaves=8,
    )


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(0, 50))
def test_the_segments_and_the_probes_sum_to_the_call_exactly(data: st.DataObject, read_ns: int) -> None:
    clock = FakeClock(read_ns)
    net = data.draw(trees(clock))
    busy = [module for module in net.modules() if isinstance(module, Busy)]
    true_ns = sum(module.ns * (1 + len(module.parts)) for module in busy)
    before = clock.now
    trace = trace_of(net, clock)
    # The first reading is before the call's first segment, the last one ends its last.
    assert trace.total_ns + trace.probes_ns == clock.now - before - read_ns
    # A reading is charged to the segment it ends; the one that starts the next is the probe's own.
    segments = 2 * len(busy) + 1
    assert trace.total_ns == true_ns + segments * read_ns
    assert trace.probes_ns == (segments - 1) * read_ns


def test_the_rows_are_means_of_the_middle_half_of_the_calls() -> None:
    def trace(ns: int) -> Trace:
        return Trace((ns, 2 * ns), (1, 1))

    assert [t.total_ns for t in middle_half([trace(ns) for ns in (90, 1, 5, 4, 3, 2, 6, 80)])] == [9, 12, 15, 18]
    assert [t.total_ns for t in middle_half([trace(7)])] == [21]


def test_beside_each_mean_stand_the_quartiles_of_all_calls() -> None:
    clock = FakeClock()

    class Drifting(nn.Module):
        """Calls with probes take one millisecond more each time; those without take one."""

        def __init__(self) -> None:
            super().__init__()
            self.probed = 0

        def forward(self, x: Tensor) -> Tensor:
            self.probed += "forward" in vars(self)
            clock.now += MS * (self.probed if "forward" in vars(self) else 1)
            return x

    net = nn.Sequential(Drifting()).eval()
    result = layer_breakdown(net, X, calls=5, clock=clock, max_seconds=100.0, tolerance=1e9)
    first = {row.path: row for row in result.rows}["0"]
    # The call that begins the turn is not timed: 2 to 6 ms are left, of which the middle ones are 3 to 5.
    assert (first.exclusive_ms, first.quartiles_ms) == (4.0, (3.0, 5.0))
    assert result.total_quartiles_ms == (3.0, 5.0)
    assert (result.plain_ms, result.plain_interval_ms) == (1.0, (1.0, 1.0))
    assert quartiles([7.0]) == (7.0, 7.0)


def test_a_disturbed_call_is_not_in_the_rows() -> None:
    clock = FakeClock()

    class Hiccup(Busy):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            Hiccup.count += 1
            clock.now += 500 * MS if Hiccup.count % 8 == 0 else 0
            return super().forward(x)

    result = layer_breakdown(Busy(clock, MS, Hiccup(clock, MS)).eval(), X, calls=16, clock=clock, max_seconds=100.0)
    assert times(result)["parts.0"] == 1.0
    assert result.total_ms == 3.0


def test_a_module_used_twice_is_one_row_with_two_runs_and_its_parameters_once() -> None:
    shared = nn.Linear(1, 1)
    net = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU())).eval()
    rows = {row.path: row for row in layer_breakdown(net, X, calls=2).rows}
    assert list(rows) == ["", "0", "1", "1.1"]
    assert (rows["0"].calls, rows["0"].parameters, rows["0"].type) == (2.0, 2, "Linear")
    assert sum(row.parameters for row in rows.values()) == 2


def test_tied_parameters_count_once() -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    result = layer_breakdown(nn.Sequential(one, two).eval(), torch.zeros(3), calls=1)
    assert [row.parameters for row in result.rows] == [0, 12, 3]


def test_tuples_and_keywords_pass_through() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> tuple[Tensor, float]:
            return x * scale, scale

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> float:
            first, scale = self.pair(x, scale=2.0)
            return scale if first.numel() else 0.0

    assert {row.path: row.calls for row in layer_breakdown(Whole().eval(), X, calls=3).rows} == {"": 1.0, "pair": 1.0}


def test_a_module_with_parameters_that_never_runs_is_said() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.used(x))

    result = layer_breakdown(Spare().eval(), X, calls=1, tolerance=1e9)
    assert {row.path: (row.calls, row.exclusive_ms) for row in result.rows}["unused"] == (0.0, 0.0)
    assert result.notes == ("modules with parameters that did not run: unused",)


def test_a_forward_that_calls_itself_again() -> None:
    clock = FakeClock()

    class Twice(nn.Module):
        depth = 0

        def forward(self, x: Tensor) -> Tensor:
            clock.now += MS
            self.depth += 1
            if self.depth == 1:
                self(x)
            self.depth -= 1
            clock.now += MS
            return x

    result = layer_breakdown(Twice().eval(), X, calls=4, clock=clock)
    assert (result.rows[0].calls, result.rows[0].exclusive_ms, result.total_ms) == (2.0, 4.0, 4.0)


def test_a_child_whose_error_the_parent_catches_keeps_its_time() -> None:
    clock = FakeClock()

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock.now += 3 * MS
            raise ValueError("no")

    class Patient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Failing()

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.part(x)
            except ValueError:
                clock.now += 4 * MS
            return x

    assert times(layer_breakdown(Patient().eval(), X, calls=2, clock=clock)) == {"": 4.0, "part": 3.0}


def test_modules_that_another_thread_runs_are_time_of_the_one_that_waits() -> None:
    clock = FakeClock()

    class Threaded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Busy(clock, 5 * MS)

        def forward(self, x: Tensor) -> Tensor:
            worker = threading.Thread(target=self.part, args=(x,))
            worker.start()
            worker.join()
            return x

    trace = trace_of(Threaded(), clock)
    assert (trace.exclusive_ns[0], trace.runs) == (5 * MS, (1, 0, 0))


def clean(net: nn.Module) -> bool:
    return all(
        "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
        for module in net.modules()
    )


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).eval()
    layer_breakdown(net, X, calls=1)
    assert clean(net)


def test_a_forward_set_on_the_instance_is_timed_and_put_back() -> None:
    net = nn.Sequential(nn.Identity()).eval()
    own = net[0].forward = lambda x: x + 1  # type: ignore[method-assign]
    rows = layer_breakdown(net, X, calls=1).rows
    assert rows[1].calls == 1.0
    assert vars(net[0])["forward"] is own


def test_when_a_call_raises_the_module_is_left_as_it_was_and_the_cause_is_kept() -> None:
    class Third(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            if "forward" in vars(self):
                raise ValueError("only when probed")
            return x

    net = nn.Sequential(Third()).eval()
    with pytest.raises(MeasurementError, match="layers: the callable raised ValueError: only when probed") as caught:
        layer_breakdown(net, X, calls=1)
    assert isinstance(caught.value.__cause__, ValueError)
    assert clean(net)


def test_what_has_no_layers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layers are those of a torch.nn.Module; got a builtin.*: pass the module"):
        layer_breakdown(torch.relu, X)  # type: ignore[arg-type]


def test_a_compiled_module_is_refused() -> None:
    net = nn.Sequential(nn.ReLU())
    net[0].compile()
    with pytest.raises(UsageError, match="0 of the module is compiled"):
        layer_breakdown(net, X)
    with pytest.raises(UsageError, match="the module is compiled"):
        layer_breakdown(torch.compile(nn.ReLU()), X)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_script_module_is_refused() -> None:
    with pytest.raises(UsageError, match="0 of the module is a ScriptModule"):
        layer_breakdown(nn.Sequential(torch.jit.script(nn.ReLU())), X)


@pytest.mark.parametrize("wrong", [{"calls": 0}, {"max_seconds": 0.0}, {"tolerance": -0.1}, {"max_seconds": math.nan}])
def test_numbers_that_are_not_allowed(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong)))):
        layer_breakdown(nn.ReLU(), X, **wrong)  # type: ignore[arg-type]


def test_a_module_on_another_device_is_refused() -> None:
    with pytest.raises(MeasurementError, match="weight of the module is on meta, the measurement on cpu"):
        layer_breakdown(nn.Linear(1, 1, device="meta"), X)
    with pytest.raises(MeasurementError, match="input 0 is on meta"):
        layer_breakdown(nn.ReLU(), X.to("meta"))


def test_training_mode_is_said() -> None:
    assert "training mode" in " ".join(layer_breakdown(nn.Sequential(nn.ReLU()), X, calls=1).notes)


def test_a_sum_that_is_off_by_more_than_the_tolerance_says_by_how_much() -> None:
    clock = FakeClock()

    class Heavier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock.now += 3 * MS if "forward" in vars(self) else 2 * MS
            return x

    result = layer_breakdown(Heavier().eval(), X, calls=4, clock=clock)
    assert (result.total_ms, result.plain_ms, result.difference) == (3.0, 2.0, 0.5)
    (note,) = result.notes
    assert note.startswith("the modules sum to 3 ms, +50% from the 2 ms of a call without probes (tolerance 10%)")
    assert layer_breakdown(Heavier().eval(), X, calls=4, clock=clock, tolerance=0.51).notes == ()


def test_what_a_probe_costs_is_measured_and_taken_off_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    net = Busy(clock, MS, Busy(clock, MS)).eval()  # two modules run
    monkeypatch.setattr(layers, "probe_ms", lambda clock: 0.25)
    result = layer_breakdown(net, X, calls=4, clock=clock)
    assert result.overhead_ms == 0.5
    assert result.difference == (3.0 - 0.5) / 3.0 - 1.0
    assert result.total_ms == math.fsum(times(result).values()) == 3.0


def test_on_a_real_net_the_rows_sum_to_the_whole() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.ReLU(), nn.Linear(64, 64)), nn.Softmax(-1)).eval()
    result = layer_breakdown(net, torch.zeros(8, 64), max_seconds=0.2)
    assert math.fsum(times(result).values()) == pytest.approx(result.total_ms, rel=1e-12)
    assert math.fsum(row.share for row in result.rows) == pytest.approx(1.0, rel=1e-12)
    assert result.overhead_ms is not None
    assert 0 <= result.overhead_ms < result.total_ms
    assert result.calls >= 1


def test_different_runs_in_different_calls_are_averaged_and_said() -> None:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.ReLU()
            self.count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return torch.as_tensor(self.part(x)) if self.count % 2 else x

    result = layer_breakdown(Alternating().eval(), X, calls=20, tolerance=1e9)
    assert 0 < result.rows[1].calls < 1
    assert any("not every call ran the same modules" in note for note in result.notes)


def test_the_device_is_held_and_no_garbage_is_collected_while_calls_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    @contextmanager
    def lock(key: str) -> Iterator[Held]:
        held.append(key)
        yield Held("no lock on cpu: why")
        held.clear()

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert held == ["cpu"]
            assert not gc.isenabled()
            return x

    monkeypatch.setattr(layers, "device_lock", lock)
    assert gc.isenabled()
    result = layer_breakdown(Looking().eval(), X, calls=1, tolerance=1e9)
    assert result.notes == ("no lock on cpu: why",)
    assert gc.isenabled()


# The table


def row(path: str, ms: float, *, calls: float = 1.0, kind: str = "Conv2d", kernels: int | None = None) -> LayerRow:
    return LayerRow(path, kind, calls, ms, (ms * 0.5, ms * 1.5), ms / 10.0, 100 if calls else 0, kernels)


def breakdown(*rows: LayerRow) -> LayerBreakdown:
    whole = (10.0, (9.0, 11.0), 9.5, (9.4, 9.6), 0.2, 0.0316, 0.1)
    return LayerBreakdown(rows, *whole, 1, "cpu", "perf_counter_ns", ())


STAGES = (
    row("", 0.5, kind="Net"), row("stem", 1.5), row("stages", 0.0, kind="Sequential"),
    row("stages.0", 1.0, kind="Stage"),
    row("stages.0.conv", 3.0), row("stages.1.conv", 4.0), row("stages.1", 0.0, calls=0.0, kind="ModuleList"),
)  # fmt: skip


def test_rows_come_slowest_first_with_the_whole_at_the_end() -> None:
    table = breakdown_rows(breakdown(*STAGES))
    assert [cells[0] for cells in table] == [
        "stages.1.conv", "stages.0.conv", "stem", "stages.0", "(top level)", "stages", "(all)",
    ]  # fmt: skip
    assert table[0] == ("stages.1.conv", "Conv2d", "1", "4.0000", "2.0000 - 6.0000", "40.0%", "100")
    assert table[-1] == ("(all)", "", "6", "10.0000", "9.0000 - 11.0000", "100.0%", "600")
    assert breakdown_columns(breakdown(*STAGES)) == COLUMNS


def test_what_is_beyond_the_limit_is_summed() -> None:
    table = breakdown_rows(breakdown(*STAGES), limit=2)
    assert [cells[0] for cells in table] == ["stages.1.conv", "stages.0.conv", "(other, 4)", "(all)"]
    assert table[2][3:] == ("3.0000", "-", "30.0%", "400")  # quartiles do not add up


def test_the_sum_stands_beside_the_call_without_probes_and_what_may_lie_between() -> None:
    assert check_line(breakdown(*STAGES)) == (
        "sum of the modules 10.0000 ms, of which the probes add 0.2000; without probes 9.5000 ms [9.4000 - 9.6000]; "
        "difference +3.2%, tolerance 10%"
    )


def test_kernels_have_a_column_only_where_they_were_counted() -> None:
    counted = breakdown(row("", 4.0, kernels=0), row("a", 6.0, kernels=3))
    assert breakdown_columns(counted) == GPU_COLUMNS
    assert [cells[-1] for cells in breakdown_rows(counted)] == ["3", "0", "3"]


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="limit = 0 must be at least 1"):
        breakdown_rows(breakdown(*STAGES), limit=0)


# On a GPU


class Kernel(nn.Module):
    """Launches on a GPU of arithmetic, then calls its children."""

    def __init__(self, gpu: SimulatedGpu, kernels: int, *children: nn.Module) -> None:
        super().__init__()
        self.gpu = gpu
        self.kernels = kernels
        self.parts = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.kernels):
            self.gpu.call()
        for part in self.parts:
            x = part(x)
        return x


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    made = SimulatedGpu(kernels=1, launch_ns=10_000, kernel_ns=MS)  # bound by its kernels
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda index: "A Card",
        "get_device_properties": lambda index: SimpleNamespace(uuid="00000000-1111-2222-3333-444444444444"),
        "device": lambda device: nullcontext(),
        "Event": lambda enable_timing: SimulatedEvent(made),
        "current_stream": lambda device: "stream",
        "synchronize": lambda device: made.synchronize(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(layers, "check_places", lambda module, inputs, place: None)
    return made


def test_events_at_the_boundaries_give_the_gpus_times(gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Kernel(gpu, 1, Kernel(gpu, 2), Kernel(gpu, 4)).eval()
    monkeypatch.setattr(layers, "count_kernels", lambda modules, call, finish: (1, 0, 2, 0, 4, 0))
    result = layer_breakdown(net, X, device="cuda:0", calls=6, clock=gpu.clock)
    # An event is recorded when the host gets there or when the kernels before it are done, whichever is later: the
    # first launch (10 us) is the whole's, all others hide behind kernels.
    assert times(result) == {
        "": pytest.approx(1.01), "parts": 0.0,
        "parts.0": 2.0, "parts.0.parts": 0.0, "parts.1": 4.0, "parts.1.parts": 0.0,
    }  # fmt: skip
    assert math.fsum(times(result).values()) == pytest.approx(result.total_ms, rel=1e-12)
    assert (result.timer, result.device, result.overhead_ms) == ("cuda events", "cuda:0", None)
    assert result.difference == pytest.approx(0.0, abs=1e-9)
    assert [r.kernels for r in result.rows] == [1, 0, 2, 0, 4, 0]
    assert result.notes == (layers.EVENTS_NOTE,)


def test_kernels_that_could_not_be_counted_are_none_and_say_why(
    gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "count_kernels", lambda modules, call, finish: NO_KERNELS)
    result = layer_breakdown(Kernel(gpu, 1).eval(), X, device="cuda:0", calls=2, clock=gpu.clock)
    assert result.rows[0].kernels is None
    assert NO_KERNELS in result.notes


def test_events_are_made_once_and_used_again() -> None:
    gpu = SimulatedGpu(kernels=1, launch_ns=10, kernel_ns=100)
    made: list[SimulatedEvent] = []

    def make_event() -> SimulatedEvent:
        made.append(SimulatedEvent(gpu))
        return made[-1]

    marks = EventMarks(make_event, "stream")
    for _ in range(3):
        marks.begin(0)
        marks.cut(1)
        gpu.call()
        marks.cut(0)
        marks.end()
        assert list(marks.segments()) == [(0, 0), (1, 110), (0, 0)]
    assert len(made) == 4


def event(name: str, parent: SimpleNamespace | None, *kernels: str, annotation: bool = False) -> SimpleNamespace:
    launched = [SimpleNamespace(name=kernel) for kernel in kernels]
    return SimpleNamespace(name=name, cpu_parent=parent, kernels=launched, is_user_annotation=annotation)


def test_a_kernel_is_of_the_innermost_module_around_its_launch() -> None:
    net = event(f"{MARK}0", None, f"{MARK}0", annotation=True)
    conv = event(f"{MARK}2", net, f"{MARK}2", "launched by the module itself", annotation=True)
    op = event("aten::conv2d", conv)
    users = event("a range of the user's", op, "a range of the user's", annotation=True)
    events = [
        net, conv, op, users,
        event("aten::cudnn_convolution", users, "winograd", "nhwcToNchw", "Memcpy DtoD (Device -> Device)"),
        event("aten::add", net, "elementwise", "Memset (Device)"),
        event("aten::zero_", None, "fill"),
    ]  # fmt: skip
    assert dict(kernels_by_module(events)) == {0: 2, 2: 3}


def test_ranges_nest_as_modules_do_in_the_real_profiler() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def record(call: object) -> list[SimpleNamespace]:
        assert callable(call)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        # Each operator of the host stands for a kernel.
        return [
            SimpleNamespace(
                name=e.name,
                cpu_parent=e.cpu_parent,
                kernels=[SimpleNamespace(name=e.name)] if e.name in ("aten::addmm", "aten::clamp_min") else [],
            )
            for e in profile.events()
        ]

    assert count_kernels(list(net.modules()), lambda: net(torch.zeros(1, 2)), lambda: None, record) == (0, 1, 1)
    assert clean(net)


def test_a_profiler_that_sees_nothing_or_fails_gives_the_reason() -> None:
    def broken(call: object) -> list[object]:
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED\nmore")

    net = nn.ReLU()
    assert count_kernels([net], lambda: net(X), lambda: None, lambda call: []) == NO_KERNELS
    reason = count_kernels([net], lambda: net(X), lambda: None, broken)
    assert reason == "kernels are not counted: torch.profiler says CUPTI_ERROR_NOT_INITIALIZED"
