"""The real pynvml over a compiled stand-in for NVML, each scenario in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nvml_processes import RunWithNvml, run_python

from vnas.profiler.notes import ENERGY_LEFT_OUT
from vnas.profiler.nvml import sees_all_processes

LOOK = """
import dataclasses, json
from vnas.profiler.nvml import open_gpu
with open_gpu({uuid!r}, pid={pid}, all_visible={all_visible}) as gpu:
    print(json.dumps([dataclasses.asdict(gpu.snapshot()), dataclasses.asdict(gpu.glance())]))
"""


def look(uuid: str = "aaa", pid: int | None = 41, all_visible: bool | None = True) -> str:
    return LOOK.format(uuid=uuid, pid=pid, all_visible=all_visible)


def test_every_field_is_read(with_nvml: RunWithNvml) -> None:
    full, glance = with_nvml(look(), uuids="GPU-aaa", reasons="0x4", pids="41")
    assert full == {
        "name": "Stand-in 0",
        "uuid": "GPU-aaa",
        "driver": "580.65.06",
        "cuda_driver": "13.1",
        "sm_clock_mhz": 1410,
        "sm_clock_max_mhz": 1980,
        "memory_clock_mhz": 2600,
        "memory_clock_max_mhz": 2619,
        "temperature_c": 45,
        "power_w": 123.4,
        "power_limit_w": 700.0,
        "event_reasons": ["sw_power_cap"],
        "throttled_ns": 0,
        "utilisation_percent": 97,
        "memory_used_mib": 1024,
        "memory_total_mib": 81920,
        "persistence": True,
        "mig": False,
        "ecc": True,
        "own_process_listed": True,
        "other_processes": 0,
        "full": True,
        "notes": [],
    }
    changing = {
        "sm_clock_mhz",
        "memory_clock_mhz",
        "temperature_c",
        "power_w",
        "event_reasons",
        "throttled_ns",
        "utilisation_percent",
        "memory_used_mib",
        "memory_total_mib",
        "own_process_listed",
        "other_processes",
    }
    assert glance == {
        **{name: full[name] if name in changing else None for name in full},
        "full": False,
        "notes": [],
    }


def test_the_uuid_decides_not_the_order(with_nvml: RunWithNvml) -> None:
    # NVML's second device is CUDA's first under CUDA_VISIBLE_DEVICES=1, or where CUDA puts the fastest first.
    full, _ = with_nvml(look("bbb"), uuids="GPU-aaa,GPU-bbb", pids="41")
    assert (full["name"], full["sm_clock_mhz"], full["uuid"]) == ("Stand-in 1", 1411, "GPU-bbb")


def test_a_prefixed_uuid_is_taken_as_it_is(with_nvml: RunWithNvml) -> None:
    full, _ = with_nvml(look("GPU-bbb"), uuids="GPU-aaa,GPU-bbb", pids="41")
    assert full["uuid"] == "GPU-bbb"


def test_a_slice_has_no_counters_of_its_own(with_nvml: RunWithNvml) -> None:
    full, glance = with_nvml(look("ccc"), uuids="GPU-aaa,MIG-ccc", pids="41")
    assert full["uuid"] == "MIG-ccc"
    assert full["mig"] is True
    assert full["memory_total_mib"] == 81920
    for field in ("sm_clock_mhz", "temperature_c", "power_w", "event_reasons", "utilisation_percent", "ecc"):
        assert full[field] is None
    assert glance["notes"] == [
        "sm_clock_mhz, memory_clock_mhz, temperature_c, power_w, event_reasons, throttled_ns, utilisation_percent: "
        "NVML says Not Supported"
    ]


SPLIT = (
    "no GPU telemetry: MIG is on, and GPU-aaa is the whole GPU, not the slice that is measured; a slice has no clocks, "
    "power or energy of its own"
)


@pytest.mark.parametrize("uuid", ["aaa", "GPU-aaa"])
def test_a_slice_with_the_uuid_of_its_parent_does_not_get_the_parents_figures(
    with_nvml: RunWithNvml, uuid: str
) -> None:
    script = look(uuid).replace("gpu.glance())]", "gpu.glance()), gpu.energy_counter()]")
    full, glance, energy = with_nvml(script, uuids="GPU-aaa", mig="1", pids="41,42", energy_mj="5000")
    known = {"driver": "580.65.06", "cuda_driver": "13.1", "mig": True}
    assert {name: full.pop(name) for name in known} == known
    assert_all_none(full)
    assert_all_none(glance)
    assert full["notes"] == glance["notes"] == [SPLIT]
    assert energy == f"no energy: {SPLIT}"


def test_a_slice_that_nvml_knows_is_read_while_mig_is_on(with_nvml: RunWithNvml) -> None:
    full, _ = with_nvml(look("ccc"), uuids="GPU-aaa,MIG-ccc", mig="1", pids="41")
    assert (full["uuid"], full["memory_total_mib"]) == ("MIG-ccc", 81920)


def test_what_is_not_supported_or_not_permitted_is_none_with_the_reason(with_nvml: RunWithNvml) -> None:
    full, _ = with_nvml(
        look(),
        uuids="GPU-aaa",
        pids="41",
        fail="nvmlDeviceGetPowerUsage=3,nvmlDeviceGetEccMode=3,nvmlDeviceGetComputeRunningProcesses_v3=4",
    )
    assert (full["power_w"], full["ecc"], full["other_processes"], full["own_process_listed"]) == (None,) * 4
    assert full["temperature_c"] == 45
    assert sorted(full["notes"]) == [
        "ecc, power_w: NVML says Not Supported",
        "other_processes: NVML says Insufficient Permissions",
    ]


def test_an_old_driver_has_the_old_names(with_old_nvml: RunWithNvml) -> None:
    full, _ = with_old_nvml(look(), uuids="GPU-aaa", reasons="0x40", pids="41")
    assert full["event_reasons"] == ["hw_thermal_slowdown"]
    assert full["temperature_c"] == 46
    assert full["notes"] == []


@pytest.mark.parametrize(
    ("pids", "all_visible", "listed", "others"),
    [
        ("41", True, True, 0),
        ("41,42", True, True, 1),
        ("41,42", False, True, 1),  # a container hides some, but not this one
        ("41", False, True, None),  # others may be outside of the container
        ("", True, False, None),  # the list leaves out even this process
        ("900", True, False, None),  # this process under another number, or another one
        ("900,901", False, False, 1),  # at most one of the two is this process
        ("41,41", True, True, 0),  # one process on two slices
    ],
)
def test_other_processes_are_counted_only_where_certain(
    with_nvml: RunWithNvml, pids: str, all_visible: bool, listed: bool, others: int | None
) -> None:
    full, _ = with_nvml(look(all_visible=all_visible), uuids="GPU-aaa", pids=pids)
    assert (full["own_process_listed"], full["other_processes"]) == (listed, others)
    assert any(note.startswith("other_processes: ") for note in full["notes"]) == (others is None)


def test_this_process_is_found_by_its_own_id(with_nvml: RunWithNvml) -> None:
    script = "import os\nos.environ['FAKE_NVML_PIDS'] = f'{os.getpid()},1'\n" + look(pid=None, all_visible=None)
    full, _ = with_nvml(script, uuids="GPU-aaa")
    assert (full["own_process_listed"], full["other_processes"]) == (True, 1)


def assert_all_none(snapshot: dict[str, object]) -> None:
    assert {value for name, value in snapshot.items() if name not in ("full", "notes")} == {None}


def test_a_uuid_that_nvml_does_not_know(with_nvml: RunWithNvml) -> None:
    full, glance = with_nvml(look("zzz"), uuids="GPU-aaa")
    assert_all_none(full)
    assert_all_none(glance)
    assert full["notes"] == [
        "no GPU telemetry: NVML does not give this device (GPU-zzz: Not Found; MIG-zzz: Not Found)"
    ]


def test_a_driver_that_is_not_loaded(with_nvml: RunWithNvml) -> None:
    full, _ = with_nvml(look(), uuids="GPU-aaa", fail="nvmlInitWithFlags=9")
    assert_all_none(full)
    assert full["notes"] == ["no GPU telemetry: NVML says Driver Not Loaded"]


def test_no_library(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")  # found first, and not a library
    full, _ = run_python(look(), LD_LIBRARY_PATH=str(tmp_path))
    assert_all_none(full)
    assert full["notes"] == ["no GPU telemetry: NVML says NVML Shared Library Not Found"]


def test_no_python_package() -> None:
    full, _ = run_python("import sys\nsys.modules['pynvml'] = None\n" + look())
    assert_all_none(full)
    assert full["notes"] == ["no GPU telemetry: nvidia-ml-py is not installed; pip install nvidia-ml-py"]


def test_nvml_that_vanishes_is_none_from_then_on(with_nvml: RunWithNvml) -> None:
    script = """
import dataclasses, json, os
from vnas.profiler.nvml import open_gpu
with open_gpu("aaa", pid=41) as gpu:
    before = gpu.snapshot()
    os.environ["FAKE_NVML_FAIL"] = "*=15"
    after = gpu.snapshot()
print(json.dumps([dataclasses.asdict(before), dataclasses.asdict(after)]))
"""
    before, after = with_nvml(script, uuids="GPU-aaa", pids="41")
    assert before["temperature_c"] == 45
    assert_all_none(after)
    (note,) = after["notes"]
    assert note.endswith(": NVML says GPU is lost")


# A whole measurement over the stand-in: the call itself changes what NVML says, at the given call.
PROTOCOL = """
import dataclasses, itertools, json, os
from simulated_gpu import SimulatedGpu, run_protocol
from vnas.profiler.nvml import open_gpu
from vnas.profiler.phases import StoppingRule, WarmUpRule

gpu = SimulatedGpu(kernels=2, launch_ns=1_000_000, kernel_ns=9_000_000)
changes = {changes!r}
def call():
    gpu.call()
    os.environ.update(changes.get(gpu.calls, {{}}))
with open_gpu("aaa", pid=41, all_visible=True) as watch:
    found = run_protocol(call, gpu.instruments(watch), WarmUpRule(), StoppingRule(min_seconds=3.0))
print(json.dumps(dict(throttled=found.throttled, contention=found.contention, notes=found.notes,
    looks=len(found.telemetry), reasons=[look.event_reasons for look in found.telemetry])))
"""


def test_a_quiet_gpu(with_nvml: RunWithNvml) -> None:
    found = with_nvml(PROTOCOL.format(changes={}), uuids="GPU-aaa", pids="41", reasons="0x4")
    assert found["throttled"] is False
    assert found["contention"] == "no"
    assert found["looks"] >= 6
    assert found["notes"] == ["the power limit held the clocks down at times (sw_power_cap)", ENERGY_LEFT_OUT]


@pytest.mark.parametrize(
    ("bits", "name"),
    [
        ("0x8", "hw_slowdown"),
        ("0x20", "sw_thermal_slowdown"),
        ("0x40", "hw_thermal_slowdown"),
        ("0x80", "hw_power_brake"),
    ],
)
def test_throttling_in_the_middle_is_seen(with_nvml: RunWithNvml, bits: str, name: str) -> None:
    changes = {60: {"FAKE_NVML_REASONS": bits}, 130: {"FAKE_NVML_REASONS": "0"}}
    found = with_nvml(PROTOCOL.format(changes=changes), uuids="GPU-aaa", pids="41", reasons="0")
    assert found["throttled"] is True
    assert found["reasons"][0] == found["reasons"][-1] == []
    assert any(note.startswith(f"throttled while sampling: clocks event reasons {name}") for note in found["notes"])


def test_a_foreign_process_that_comes_and_goes_is_seen(with_nvml: RunWithNvml) -> None:
    changes = {60: {"FAKE_NVML_PIDS": "41,77"}, 130: {"FAKE_NVML_PIDS": "41"}}
    found = with_nvml(PROTOCOL.format(changes=changes), uuids="GPU-aaa", pids="41")
    assert found["contention"] == "yes"
    assert "contention: up to 1 other compute processes were on the GPU" in found["notes"][0]


def test_a_hidden_list_is_unknown(with_nvml: RunWithNvml) -> None:
    found = with_nvml(PROTOCOL.format(changes={}), uuids="GPU-aaa", pids="")
    assert found["contention"] == "unknown"
    assert found["notes"] == [
        "other_processes: the list does not name this process, so it is not complete",
        ENERGY_LEFT_OUT,
    ]


def test_nvml_vanishing_in_the_middle_leaves_a_result_that_says_so(with_nvml: RunWithNvml) -> None:
    found = with_nvml(PROTOCOL.format(changes={60: {"FAKE_NVML_FAIL": "*=15"}}), uuids="GPU-aaa", pids="41")
    assert found["throttled"] is None
    assert found["contention"] == "unknown"
    assert any("NVML says GPU is lost" in note for note in found["notes"])


def test_a_process_outside_the_first_namespace_does_not_see_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[4026532000]"))
    assert not sees_all_processes()
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[4026531836]"))
    assert sees_all_processes()

    def unreadable(path: Path) -> Path:
        raise PermissionError(os.fspath(path))

    monkeypatch.setattr(Path, "readlink", unreadable)
    assert not sees_all_processes()
    monkeypatch.setattr("sys.platform", "win32")
    assert not sees_all_processes()
