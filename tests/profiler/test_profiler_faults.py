"""What NVML can do to a measurement, by the real pynvml over the compiled stand-in: never guessed, never fatal."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from nvml_processes import RunWithNvml, build_library, runner

LOOKS = """
import dataclasses, json
from vnas.profiler.nvml import open_gpu
with open_gpu("aaa", pid=41, all_visible=True) as gpu:
    print(json.dumps([dataclasses.asdict(gpu.{look}()) for _ in range({looks})]))
"""


def looks(count: int, look: str = "glance") -> str:
    return LOOKS.format(looks=count, look=look)


def test_throttling_that_begins_between_looks(with_nvml: RunWithNvml) -> None:
    seen = with_nvml(looks(4), uuids="GPU-aaa", pids="41", reasons="0x4", reasons_after="1:0x40;3:0")
    assert [look["event_reasons"] for look in seen] == [["sw_power_cap"], *[["hw_thermal_slowdown"]] * 2, []]


def test_throttling_that_no_look_sees_is_in_the_violation_times(with_nvml: RunWithNvml) -> None:
    # thermal and board limit count; power, sync boost, low utilisation and reliability do not
    before, after = with_nvml(
        looks(2),
        uuids="GPU-aaa",
        pids="41",
        violations="0=7,1=10,2=7,3=200,4=7,5=3000",
        violations_after="1:0=9000000,1=40,2=9000000,3=200,4=9000000,5=9000000",
    )
    assert (before["throttled_ns"], after["throttled_ns"]) == (210, 240)
    assert before["notes"] == after["notes"] == []


def test_policies_that_are_not_kept_time_of_are_left_out(with_nvml: RunWithNvml) -> None:
    before, after = with_nvml(
        looks(2), uuids="GPU-aaa", pids="41", violations="1=10", violations_after="1:1=20,3=1000000"
    )
    # the board limit came late: to count it now would look like throttling
    assert (before["throttled_ns"], after["throttled_ns"]) == (10, 20)
    assert after["notes"] == []


def test_a_policy_that_is_lost_does_not_make_time_go_backwards(with_nvml: RunWithNvml) -> None:
    before, after = with_nvml(looks(2), uuids="GPU-aaa", pids="41", violations="1=10,3=5", violations_after="1:1=20")
    assert (before["throttled_ns"], after["throttled_ns"]) == (15, None)
    assert after["notes"] == ["throttled_ns: NVML says Not Supported"]


def test_no_violation_times_at_all(with_nvml: RunWithNvml) -> None:
    (seen,) = with_nvml(looks(1), uuids="GPU-aaa", pids="41", violations="0=5")
    assert (seen["throttled_ns"], seen["event_reasons"]) == (None, [])
    assert seen["notes"] == ["throttled_ns: NVML says Not Supported"]


def test_no_permission_for_violation_times(with_nvml: RunWithNvml) -> None:
    (seen,) = with_nvml(looks(1), uuids="GPU-aaa", pids="41", fail="nvmlDeviceGetViolationStatus=4")
    assert seen["throttled_ns"] is None
    assert seen["notes"] == ["throttled_ns: NVML says Insufficient Permissions"]


def test_a_fault_at_the_first_look_drops_no_policy(with_nvml: RunWithNvml) -> None:
    first, second = with_nvml(
        looks(2), uuids="GPU-aaa", pids="41", violations="1=10,3=5,5=1",
        fail_after="0:nvmlDeviceGetViolationStatus=15;1:nvmlInitWithFlags=1",
    )  # fmt: skip
    assert (first["throttled_ns"], second["throttled_ns"]) == (None, 15)


def test_a_foreign_process_that_appears(with_nvml: RunWithNvml) -> None:
    seen = with_nvml(looks(3), uuids="GPU-aaa", pids="41", pids_after="1:41,42;2:41")
    assert [look["other_processes"] for look in seen] == [0, 1, 0]


def test_no_process_list_as_under_wsl(with_nvml: RunWithNvml) -> None:
    (seen,) = with_nvml(looks(1), uuids="GPU-aaa", fail="nvmlDeviceGetComputeRunningProcesses_v3=3")
    assert (seen["own_process_listed"], seen["other_processes"]) == (None, None)
    assert seen["notes"] == ["other_processes: NVML says Not Supported"]


def test_a_library_without_the_current_process_list(tmp_path: Path) -> None:
    # pynvml raises something here that is no NVMLError
    run = runner(build_library(tmp_path, "-DOLDER_DRIVER"))
    (seen,) = run(looks(1, "snapshot"), uuids="GPU-aaa", pids="41")
    assert (seen["own_process_listed"], seen["other_processes"], seen["temperature_c"]) == (None, None, 46)
    (note,) = seen["notes"]
    assert note.startswith("other_processes: NVML says ")


@pytest.mark.parametrize(("code", "reason"), [(15, "GPU is lost"), (999, "Unknown Error"), (1, "Uninitialized")])
def test_nvml_vanishing_between_looks(with_nvml: RunWithNvml, code: int, reason: str) -> None:
    seen = with_nvml(looks(3), uuids="GPU-aaa", pids="41", fail_after=f"15:*={code}")  # three to open, twelve a look
    assert seen[0]["sm_clock_mhz"] == 1410
    assert seen[0]["notes"] == []
    for gone in seen[1:]:
        assert {value for name, value in gone.items() if name not in ("full", "notes")} == {None}
        (note,) = gone["notes"]
        assert note.endswith(f": NVML says {reason}")


def test_one_query_that_fails_leaves_the_others(with_nvml: RunWithNvml) -> None:
    seen = with_nvml(looks(3), uuids="GPU-aaa", pids="41", fail_after="1:nvmlDeviceGetPowerUsage=15;2:x=15")
    assert [look["power_w"] for look in seen] == [123.4, None, 123.4]
    assert [look["temperature_c"] for look in seen] == [45, 45, 45]


def test_another_user_of_nvml_in_the_process_closes_it(with_nvml: RunWithNvml) -> None:
    script = """
import dataclasses, json, os
import pynvml
from vnas.profiler.nvml import open_gpu
with open_gpu("aaa", pid=41) as gpu:
    pynvml.nvmlShutdown()
    os.environ["FAKE_NVML_FAIL"] = "*=1"  # what the real library says to all calls from then on
    after = gpu.snapshot()
print(json.dumps(dataclasses.asdict(after)))
"""
    seen = with_nvml(script, uuids="GPU-aaa", pids="41")
    assert seen["temperature_c"] is None
    assert seen["notes"][0].endswith("NVML says Uninitialized")


# Energy over the stand-in, on a simulated clock: what the device has taken is put where the stand-in reads it.
ENERGY = """
import dataclasses, json, os
from simulated_energy import SimulatedDevice
from vnas.profiler.energy import measure_energy
from vnas.profiler.nvml import open_gpu

device = SimulatedDevice(idle_w=70.0, busy_w=300.0, call_seconds=1e-3)
class Counter:
    source = "nvml"
    def __init__(self, counter):
        self.counter = counter
    reason = property(lambda self: self.counter.reason)
    def read_mj(self):
        device.sleep(1e-4)
        if {feeds}:
            os.environ["FAKE_NVML_ENERGY_MJ"] = str(int(device.counter_mj()))
        return self.counter.read_mj()
with open_gpu({uuid!r}, pid=41) as gpu:
    counter = gpu.energy_counter()
    found = measure_energy(device.call, device.finish, counter if isinstance(counter, str) else Counter(counter),
                           clock=device.clock, sleep=device.sleep)
print(json.dumps(found if isinstance(found, str) else dataclasses.asdict(found)))
"""


def energy(feeds: bool = True, uuid: str = "aaa") -> str:
    return ENERGY.format(feeds=feeds, uuid=uuid)


def test_energy_by_the_counter(with_nvml: RunWithNvml) -> None:
    found = with_nvml(energy(), uuids="GPU-aaa", energy_mj="0")
    assert found["source"] == "nvml"
    for name, truth_mj in (("gross", 300.0), ("net", 230.0)):
        low, high = found[f"{name}_interval_mj"]
        assert low <= truth_mj <= high
        assert found[f"{name}_mj"] == pytest.approx(truth_mj, rel=0.02)
    assert found["refresh_ms"] == pytest.approx(100, abs=11)


def test_an_energy_counter_that_stands_still(with_nvml: RunWithNvml) -> None:
    assert with_nvml(energy(feeds=False), uuids="GPU-aaa", energy_mj="1000000") == (
        "no energy: the counter stood still for 3 s"
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "NVML says Not Supported"),
        ({"energy_mj": "5", "fail": "nvmlDeviceGetTotalEnergyConsumption=4"}, "NVML says Insufficient Permissions"),
        ({"energy_mj": "5", "fail_after": "300:nvmlDeviceGetTotalEnergyConsumption=15"}, "NVML says GPU is lost"),
    ],
)
def test_no_energy_counter(with_nvml: RunWithNvml, settings: dict[str, str], reason: str) -> None:
    found = with_nvml(energy(), uuids="GPU-aaa", **settings)
    assert found == f"no energy: the GPU's energy counter cannot be read: {reason}"


def test_a_slice_has_no_energy_counter(with_nvml: RunWithNvml) -> None:
    found = with_nvml(energy(uuid="ccc"), uuids="GPU-aaa,MIG-ccc", energy_mj="5")
    assert found == "no energy: the GPU's energy counter cannot be read: NVML says Not Supported"


def test_without_nvml_there_is_no_energy(with_nvml: RunWithNvml) -> None:
    found = with_nvml(energy(), uuids="GPU-aaa", fail="nvmlInitWithFlags=9")
    assert found == "no energy: no GPU telemetry: NVML says Driver Not Loaded"


def test_the_stand_ins_counter_moves_by_whole_steps(with_nvml: RunWithNvml) -> None:
    script = """
import json, time
from vnas.profiler.nvml import open_gpu
with open_gpu("aaa", pid=41) as gpu:
    counter, seen = gpu.energy_counter(), []
    while len(set(seen)) < 4:
        seen.append(counter.read_mj())
        time.sleep(0.001)
print(json.dumps(seen))
"""
    seen = with_nvml(script, uuids="GPU-aaa", energy_mw="1000000", energy_refresh_ms="10")
    assert {(after - before) % 10_000 for before, after in itertools.pairwise(seen)} == {0.0}


# The whole way: ``measure`` on a card of arithmetic and its clock, its telemetry by the real pynvml from the stand-in.
MEASURED = """
import functools, json
import pytest
from test_profiler_cuda import Card
from vnas.profiler import cuda, measure
from vnas.profiler.nvml import open_gpu

with pytest.MonkeyPatch.context() as patch:
    card = Card()
    card.put_in_place(patch)
    patch.setattr(cuda, "open_gpu", lambda uuid: open_gpu(uuid, pid=41, all_visible=True))
    for name in ("CudaEventTimer", "HostTimer", "EnqueueTimer"):
        patch.setattr(cuda, name, functools.partial(getattr(cuda, name), clock=card.clock))
    def call():
        card.now_ns += 10_000_000
        card.call()
    card.refuse = True  # a graph of it makes no sense
    found = measure(call, device="cuda:0", min_samples=50, min_seconds=2.2, max_seconds=2.6, max_warmup_seconds=0.1)
print(json.dumps({
    "discarded": [block.discarded for block in found.blocks],
    "valid": found.valid, "throttled": found.throttled, "contention": found.contention,
    "median_ms": found.median_ms, "uuid": found.environment.device_id, "notes": found.notes,
    "clocks": [look.sm_clock_mhz for look in found.telemetry],
}))
"""


def test_a_measurement_through_throttling_a_foreign_process_and_the_loss_of_nvml(with_nvml: RunWithNvml) -> None:
    seen = with_nvml(
        MEASURED,
        uuids="GPU-00000000-1111-2222-3333-444444444444",
        pids="41",
        # Look 0 is the full one, 1 begins the turn, then one each half second of sampling.
        reasons_after="2:0x40;3:0",
        pids_after="3:41,42;4:41",
        fail_after="5:nvmlDeviceGetClockInfo=15",
    )
    assert seen["discarded"][:4] == ["throttled", "throttled", None, None]
    assert (seen["valid"], seen["throttled"], seen["contention"]) == (True, True, "yes")
    assert seen["median_ms"] == pytest.approx(10.102)
    assert seen["uuid"] == "GPU-00000000-1111-2222-3333-444444444444"
    notes = "\n".join(seen["notes"])
    assert "throttled while sampling: clocks event reasons hw_thermal_slowdown" in notes
    assert "contention: up to 1 other compute processes were on the GPU" in notes
    assert "NVML says GPU is lost" in notes
    assert seen["clocks"][0] == 1410
    assert seen["clocks"][-1] is None
