"""A GPU that is a few lines of arithmetic: a host clock, and a queue that kernels wait in."""

from __future__ import annotations

from vnas.profiler.looking import Watch
from vnas.profiler.phases import StoppingRule, WarmUpRule
from vnas.profiler.protocol import Findings, Instruments, Report, Run
from vnas.profiler.timers import Call, CudaEventTimer, EnqueueTimer, HostTimer


class SimulatedEvent:
    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu
        self.at_ns = 0

    def record(self, stream: object) -> None:
        assert stream == "stream"
        self.at_ns = max(self._gpu.now_ns, self._gpu.busy_until_ns)

    def synchronize(self) -> None:
        self._gpu.now_ns = max(self._gpu.now_ns, self.at_ns)

    def elapsed_time(self, end: SimulatedEvent) -> float:
        return (end.at_ns - self.at_ns) / 1e6


class SimulatedGpu:
    """Each kernel costs the host ``launch_ns``, then runs for ``kernel_ns`` when those before it are done.

    Args:
        kernels: of a call.
        launch_ns: that the host needs for each.
        kernel_ns: that each runs.
        side_ns: that one more kernel of a call runs, on a stream that no event lies on.
        joined: the events' stream waits for the other one at the end of a call.
        wait_ns: that the host needs to notice that the device is done.
    """

    def __init__(
        self, kernels: int, launch_ns: int, kernel_ns: int, side_ns: int = 0, joined: bool = False, wait_ns: int = 0
    ) -> None:
        self.kernels = kernels
        self.launch_ns = launch_ns
        self.kernel_ns = kernel_ns
        self.now_ns = 0
        self.side_ns = side_ns
        self.joined = joined
        self.wait_ns = wait_ns
        self.busy_until_ns = 0
        self.side_until_ns = 0
        self.worked_ns = 0
        self.calls = 0

    def clock(self) -> int:
        return self.now_ns

    def synchronize(self) -> None:
        self.now_ns = max(self.now_ns, self.busy_until_ns, self.side_until_ns) + self.wait_ns

    def call(self) -> None:
        self.calls += 1
        for _ in range(self.kernels):
            self.now_ns += self.launch_ns
            self.busy_until_ns = max(self.now_ns, self.busy_until_ns) + self.kernel_ns
        self.worked_ns += self.kernels * self.kernel_ns + self.side_ns
        if self.side_ns:
            self.side_until_ns = max(self.now_ns, self.side_until_ns) + self.side_ns
        if self.joined:
            self.busy_until_ns = max(self.busy_until_ns, self.side_until_ns)

    def capture(self, call: Call) -> Call:
        def replay() -> None:
            self.now_ns += self.launch_ns
            self.busy_until_ns = max(self.now_ns, self.busy_until_ns) + self.kernels * self.kernel_ns

        return replay

    def instruments(self, watch: Watch | None = None) -> Instruments:
        return Instruments(
            main=CudaEventTimer(lambda: SimulatedEvent(self), "stream", self.clock),
            finish=self.synchronize,
            host=HostTimer(self.synchronize, self.clock),
            enqueue=EnqueueTimer(self.synchronize, self.clock),
            capture=self.capture,
            watch=watch,
        )


def run_protocol(
    call: Call, instruments: Instruments, warmup: WarmUpRule, rule: StoppingRule, report: Report | None = None
) -> Findings:
    """One callable alone, from check to summary."""
    run = Run(call, instruments, warmup, rule, report)
    run.prepare()
    while not run.done:
        run.turn()
    return run.finish()
