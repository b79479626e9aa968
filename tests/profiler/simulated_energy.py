"""A device that takes known powers, and a counter of its energy that moves in steps; its clock waits for nobody."""

from __future__ import annotations

import math


class SimulatedDevice:
    """Takes ``busy_w`` while it works on a call and ``idle_w`` while it does not.

    Args:
        idle_w: power without work.
        busy_w: power with it.
        call_seconds: that it works on one call.
        refresh_seconds: between two steps of the counter.
        phase: of the steps, as a share of their distance.
        read_seconds: that the host needs to read the counter.
        asynchronous: a call returns at once, as on a GPU.
    """

    def __init__(
        self,
        idle_w: float = 70.0,
        busy_w: float = 300.0,
        call_seconds: float = 1e-3,
        refresh_seconds: float = 0.1,
        phase: float = 0.3,
        read_seconds: float = 1e-4,
        asynchronous: bool = True,
    ) -> None:
        self.idle_w = idle_w
        self.busy_w = busy_w
        self.call_seconds = call_seconds
        self.refresh_seconds = refresh_seconds
        self.phase = phase
        self.read_seconds = read_seconds
        self.asynchronous = asynchronous
        self.now = 0.0
        self.busy: list[list[float]] = [[0.0, 0.0]]  # from, to
        self.calls = 0
        self.reads = 0
        self.longest_queue = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self) -> None:
        self.calls += 1
        end = self.busy[-1][1]
        if self.now > end:
            self.busy.append([self.now, self.now])
        self.busy[-1][1] += self.call_seconds
        self.longest_queue = max(self.longest_queue, self.busy[-1][1] - self.now)
        if not self.asynchronous:
            self.finish()

    def finish(self) -> None:
        self.now = max(self.now, self.busy[-1][1])

    def energy_mj(self, now: float) -> float:
        worked = math.fsum(min(end, now) - start for start, end in self.busy if start < now)
        return 1e3 * (self.idle_w * now + (self.busy_w - self.idle_w) * worked)

    def counter_mj(self) -> float:
        """The counter as it is now: the energy up to its last step."""
        steps = math.floor(self.now / self.refresh_seconds - self.phase)
        return self.energy_mj(max((steps + self.phase) * self.refresh_seconds, 0.0))


class SimulatedCounter:
    """The device's counter as a reader sees it; ``changes`` says what it gives from so many seconds on."""

    reason: str | None = "it has gone"

    def __init__(self, device: SimulatedDevice, source: str, changes: dict[float, float | None] | None = None) -> None:
        self.device = device
        self.source = source
        self.changes = changes or {}

    def read_mj(self) -> float | None:
        self.device.reads += 1
        self.device.now += self.device.read_seconds / 2
        value: float | None = self.device.counter_mj()
        for since, given in self.changes.items():
            if self.device.now >= since:
                value = given
        self.device.now += self.device.read_seconds / 2
        return value
