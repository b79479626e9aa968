from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vnas.errors import UsageError
from vnas.profiler import rapl
from vnas.profiler.rapl import RaplCounter, rapl_counter

Zone = Callable[..., Path]


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    def make(number: str, name: str, energy_uj: int, most_uj: int = 1_000_000) -> Path:
        folder = tmp_path / f"intel-rapl{number}"
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")
        return folder

    return make


def counter(root: Path) -> RaplCounter:
    found = rapl_counter(root)
    assert isinstance(found, RaplCounter)
    return found


def test_packages_are_added_and_nothing_else(zone: Zone, tmp_path: Path) -> None:
    names = {":0": "package-0", ":0:0": "core", ":0:1": "dram", ":1": "package-1", ":2": "psys", "-mmio:0": "package-0"}
    for number, name in names.items():
        zone(number, name, 5000)
    seen = counter(tmp_path)
    assert (seen.source, seen.read_mj(), seen.reason) == ("rapl", 0.0, None)
    for number, name in names.items():
        zone(number, name, 7000 if name == "package-0" else 9000)
    assert seen.read_mj() == 2.0 + 4.0


def test_dies_are_packages(zone: Zone, tmp_path: Path) -> None:
    for die in (0, 1):
        zone(f":{die}", f"package-0-die-{die}", 0)
    seen = counter(tmp_path)
    for die in (0, 1):
        zone(f":{die}", f"package-0-die-{die}", 1000)
    assert seen.read_mj() == 2.0


def test_a_counter_that_wraps_goes_on(zone: Zone, tmp_path: Path) -> None:
    zone(":0", "package-0", 999_000)
    zone(":1", "package-1", 0)
    seen = counter(tmp_path)
    zone(":0", "package-0", 500)
    assert seen.read_mj() == 1.5
    zone(":0", "package-0", 400)
    assert seen.read_mj() == pytest.approx(1001.4)


def test_a_reading_that_fails_is_none_and_counts_for_nothing(zone: Zone, tmp_path: Path) -> None:
    zone(":0", "package-0", 0)
    gone = zone(":1", "package-1", 0)
    seen = counter(tmp_path)
    zone(":0", "package-0", 3000)
    (gone / "energy_uj").write_text("")
    assert seen.read_mj() is None
    assert seen.reason is not None
    assert seen.reason.startswith("the CPU's energy counter cannot be read: ")
    zone(":1", "package-1", 2000)
    assert (seen.read_mj(), seen.reason) == (5.0, None)


@pytest.mark.parametrize("zones", [{}, {":0": "psys"}, {":0:0": "package-0"}])
def test_none_is_said(zone: Zone, tmp_path: Path, zones: dict[str, str]) -> None:
    for number, name in zones.items():
        zone(number, name, 0)
    found = rapl_counter(tmp_path)
    assert isinstance(found, str)
    assert found.startswith(f"no energy: this machine shows no energy counter of its CPU ({tmp_path}/intel-rapl:N); ")


def test_no_permission_says_what_to_type(zone: Zone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = zone(":0", "package-0", 0) / "energy_uj"
    read = Path.read_text

    def refuse(path: Path, **options: str) -> str:
        if path == closed:  # root may read everything, so the mode would not do
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert rapl_counter(tmp_path) == (
        f"no energy: the CPU's energy counter may not be read ({closed}); as root: "
        f"chmod a+r {tmp_path}/intel-rapl:*/energy_uj, until the next boot"
    )


def test_measuring_without_a_counter_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapl, "rapl_counter", lambda: "no energy: none")
    assert rapl.measure(lambda: None, window_seconds=1.0) == "no energy: none"
    with pytest.raises(UsageError):
        rapl.measure(lambda: None, window_seconds=0.5)
