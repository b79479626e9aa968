from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from result_examples import a_measurement, an_entry, an_environment

from vnas.errors import UsageError
from vnas.profiler.blocks import Block
from vnas.profiler.energy import Energy
from vnas.profiler.layer_table import LayerBreakdown, LayerRow
from vnas.profiler.measurement import Measurement
from vnas.profiler.numerics import NumericalError
from vnas.profiler.records import from_plain
from vnas.profiler.results import (
    Entry,
    Layers,
    csv_row,
    layers_path,
    put_aside_share,
    read_json,
    write_csv,
    write_json,
    write_layers_csv,
)
from vnas.profiler.telemetry import Snapshot

PLAIN = an_entry([[1.0, 2.0, 3.0]])
FULL = an_entry(
    [[1.0, 2.0], [3.0]],
    net="package.module:f",
    form="callable",
    image_size=None,
    energy=Energy("nvml", 50.0, (49.0, 51.0), 20.0, (18.0, 22.0), 30.0, 5.0, 1000, 100.0),
    error=NumericalError(0.002, 0.001),
    telemetry=(Snapshot(sm_clock_mhz=1000), Snapshot(sm_clock_mhz=1980, temperature_c=45, power_w=300.5)),
    blocks=(Block(0, 0, 0.0, 2), Block(0, 0, 0.1, 1, 7.5, "slowed"), Block(1, 0, 0.0, 1, 4.5)),
    discarded_ms=(9.0,),
    notes=("one, and", "another"),
)


def test_json_both_ways(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [PLAIN, FULL])
    assert read_json(tmp_path / "a.json") == [PLAIN, FULL]


def test_each_net_of_the_file_is_a_measurement_with_its_environment(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [PLAIN])
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["schema"] == 2
    (net,) = data["nets"]
    assert {key: net[key] for key in ("net", "form", "image_size")} == {
        "net": "timm:resnet18", "form": "eval", "image_size": 224,
    }  # fmt: skip
    assert Measurement.from_dict(net["measurement"]) == PLAIN.measurement
    assert net["measurement"]["environment"] == an_environment().to_dict()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [PLAIN])
    impossible = dataclasses.replace(PLAIN, measurement=a_measurement([[1.0]], host_ms=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, [PLAIN, impossible])
    assert read_json(path) == [PLAIN]
    write_json(path, [PLAIN, FULL])
    assert read_json(path) == [PLAIN, FULL]
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, [PLAIN])
    before = path.read_bytes()
    write = Path.write_bytes

    def full_disk(self: Path, content: bytes) -> int:
        write(self, content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UsageError, match=r"a\.json cannot be written: No space left on device"):
        write_json(path, [FULL])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_json(tmp_path / "nowhere" / "a.json", [PLAIN])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_json(pipe, [PLAIN])
    reader.join(timeout=5)
    assert json.loads(got[0])["schema"] == 2
    assert pipe.is_fifo()


def plain(**changes: Any) -> dict[str, Any]:
    return {"net": "a", "form": "eval", "image_size": 224, "measurement": PLAIN.measurement.to_dict(), **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json is not JSON \(.*\); it must be a file that --json wrote"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[]", r"a\.json is not a file of results"),
        (PLAIN.measurement.to_dict(), 'it has no "nets"'),
        ({"schema": 3, "nets": []}, "has schema 3; this version reads schemas 1 and 2; measure again: python -m vnas"),
        ({"nets": []}, "has schema None; this version reads schemas 1 and 2"),
        ({"schema": 2, "nets": {}}, '"nets" must be a list; it is of type dict'),
        ({"schema": 2, "nets": [1]}, r"a\.json: nets\[0\] is 1; it must be an object"),
        ({"schema": 2, "nets": [plain(), plain(fom="x")]}, r"nets\[1\] has an unknown key 'fom'\. Did you mean 'form'"),
        ({"schema": 2, "nets": [plain(image_size="224")]}, r"nets\[0\]\.image_size is '224'"),
        ({"schema": 2, "nets": [plain(measurement=None)]}, r"nets\[0\]\.measurement is None"),
        (
            {"schema": 2, "nets": [plain(measurement={**PLAIN.measurement.to_dict(), "schema": 3})]},
            r"nets\[0\]\.measurement has schema 3; this version reads schemas 1 and 2",
        ),
        (
            {"schema": 2, "nets": [plain(measurement={**PLAIN.measurement.to_dict(), "median_ms": "2"})]},
            r"nets\[0\]\.measurement\.median_ms is '2'; it must be of type float",
        ),
        (
            {"schema": 2, "nets": [plain(measurement={**PLAIN.measurement.to_dict(), "samples_ms": [1.0, 2.0]})]},
            r"nets\[0\]\.measurement has 2 samples_ms, but its blocks count 3",
        ),
        (
            {"schema": 2, "nets": [plain(measurement={**PLAIN.measurement.to_dict(), "discarded_ms": [1.0]})]},
            "has 1 discarded_ms, but its blocks count 0",
        ),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.json"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        read_json(path)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_file_of_version_0_1_can_be_read(tmp_path: Path) -> None:
    new = {"interval_method", "blocks", "discarded_ms", "quiet_us", "page_faults", "energy", "error", "valid"}
    old = {name: value for name, value in PLAIN.measurement.to_dict().items() if name not in new}
    later = {"vnas", "revision", "malloc", "interop_threads", "packages"}
    here = {name: value for name, value in an_environment().to_dict().items() if name not in later}
    measurement = {**old, "schema": 1, "energy_mj": None, "precision": "float32", "environment": here}
    (tmp_path / "a.json").write_text(json.dumps({"schema": 1, "nets": [plain(measurement=measurement)]}))
    (entry,) = read_json(tmp_path / "a.json")
    assert (entry.net, entry.measurement.precision, entry.measurement.blocks) == ("a", "fp32", ())
    assert entry.measurement.samples_ms == PLAIN.measurement.samples_ms


def layers_of(net: str) -> Layers:
    rows = (
        LayerRow("", "Net", 1.0, 0.5, (0.4, 0.6), 0.25, 0, None),
        LayerRow("conv", "Conv2d", 2.0, 1.5, (1.4, 1.7), 0.75, 10, 3),
    )
    breakdown = LayerBreakdown(
        rows, 2.0, (1.9, 2.2), 1.9, (1.8, 2.0), None, 0.05, 0.1, 100, "cpu", "a clock", ("n", "m")
    )
    return Layers(net, "eval", breakdown)


def test_layers_are_in_the_json_file_beside_the_nets(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [PLAIN], [layers_of("timm:resnet18")])
    assert read_json(tmp_path / "a.json") == [PLAIN]
    (layers,) = json.loads((tmp_path / "a.json").read_text())["layers"]
    assert (layers["net"], layers["form"]) == ("timm:resnet18", "eval")
    assert from_plain(LayerBreakdown, layers["breakdown"], "layers") == layers_of("").breakdown
    write_json(tmp_path / "a.json", [PLAIN])
    assert "layers" not in json.loads((tmp_path / "a.json").read_text())


def test_layers_have_one_row_a_module_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = layers_path(tmp_path / "a.csv")
    assert path == tmp_path / "a.layers.csv"
    write_layers_csv(path, [layers_of("a"), layers_of("b")])
    rows = rows_of(path)
    assert [(row["net"], row["module"]) for row in rows] == [("a", ""), ("a", "conv"), ("b", ""), ("b", "conv")]
    text = (write_layers_csv.__doc__ or "").split("in this order: ")[1].partition(", with ``")[0]
    words = re.sub(r"\([^)]*\)|then those of the whole, the same in every row of a\s+net:|\band\b", "", text)
    assert list(rows[0]) == [name.strip() for name in words.split(",") if name.strip()]
    expected = {
        "type": "Conv2d", "runs": "2.0", "exclusive_ms": "1.5", "low_quartile_ms": "1.4", "high_quartile_ms": "1.7",
        "share": "0.75", "parameters": "10", "kernels": "3", "total_ms": "2.0", "plain_ms": "1.9",
        "plain_low_ms": "1.8", "plain_high_ms": "2.0", "overhead_ms": "", "difference": "0.05",
        "tolerance": "0.1", "notes": "n | m",
    }  # fmt: skip
    assert {name: rows[1][name] for name in expected} == expected


def test_packages_are_one_field_of_the_csv_file() -> None:
    environment = dataclasses.replace(an_environment(), packages={"onnxruntime": "1.20", "timm": "1.0.9"})
    row = csv_row(an_entry([[1.0]], environment=environment))
    assert (row["packages"], csv_row(PLAIN)["packages"]) == ("onnxruntime=1.20;timm=1.0.9", "")


def test_csv_has_one_row_a_net_and_empty_fields_for_none(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [PLAIN, FULL])
    first, second = rows_of(tmp_path / "a.csv")
    for name in ("host_ms", "launch_bound", "energy_gross_mj", "energy_net_low_mj", "error_max_relative", "power_w"):
        assert first[name] == ""
    expected = {
        "net": "package.module:f", "image_size": "", "batch": "1", "input_shapes": "1x3x224x224", "median_ms": "2.0",
        "low_ms": "1.99", "noise_ok": "True", "n": "3", "processes": "2", "put_aside_share": "0.25",
        "energy_gross_mj": "50.0", "energy_gross_low_mj": "49.0", "energy_gross_high_mj": "51.0",
        "energy_net_mj": "20.0", "energy_net_low_mj": "18.0", "energy_net_high_mj": "22.0", "energy_source": "nvml",
        "error_max_relative": "0.002", "sm_clock_mhz": "1980", "temperature_c": "45", "power_w": "300.5",
        "device_kind": "A CPU, 2 CPUs", "torch": "2.9.0", "threads": "2", "notes": "one, and | another",
    }  # fmt: skip
    assert {name: second[name] for name in expected} == expected


def test_the_net_energy_may_be_unknown(tmp_path: Path) -> None:
    energy = Energy("rapl", 50.0, (49.0, 51.0), None, None, None, 5.0, 1000, 1.0)
    row = csv_row(an_entry([[1.0]], energy=energy))
    assert (row["energy_gross_mj"], row["energy_net_mj"], row["energy_net_low_mj"]) == (50.0, None, None)


def test_the_columns_are_those_that_are_documented() -> None:
    text = (write_csv.__doc__ or "").split("in this order: ")[1]
    before, after = text.split(", then every field of ``Environment``, and ")
    named = [name.strip() for name in before.replace(" (these four as last seen)", "").split(",")]
    fields = [field.name for field in dataclasses.fields(an_environment())]
    assert list(csv_row(PLAIN)) == [*named, *fields, after.split(",")[0]]
    assert list(csv_row(FULL)) == list(csv_row(PLAIN))


def test_every_single_value_of_a_measurement_has_its_column() -> None:
    single = {
        field.name
        for field in dataclasses.fields(Measurement)
        if isinstance(getattr(FULL.measurement, field.name), str | int | float | None)
    }
    assert single - set(csv_row(FULL)) == set()


@pytest.mark.parametrize(("kept", "aside", "share"), [(4, 0, 0.0), (3, 1, 0.25), (1, 3, 0.75)])
def test_share_put_aside(kept: int, aside: int, share: float) -> None:
    assert put_aside_share(a_measurement([[1.0] * kept], discarded_ms=(2.0,) * aside)) == share


def test_an_entry_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.net = "b"  # type: ignore[misc]
    assert Entry("a", "b", None, PLAIN.measurement).image_size is None
