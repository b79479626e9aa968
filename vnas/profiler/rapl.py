"""The energy counters of the CPU's packages (RAPL), as Linux shows them under powercap. AMD's are there as Intel's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vnas.profiler.energy import Energy, measure_energy
from vnas.profiler.energy_readings import Call

POWERCAP = Path("/sys/class/powercap")


class RaplCounter:
    """The sum over the packages, since the first reading. Made by ``rapl_counter``.

    A package is what the socket holds: cores, caches, memory controller. Its parts (``core``, ``dram``) are not added,
    nor is the platform (``psys``), of which the packages are parts.
    """

    source: Literal["rapl"] = "rapl"

    def __init__(self, packages: Sequence[Path]) -> None:
        self._packages = packages
        self._last_uj: dict[Path, int] = {}
        self._total_uj = 0
        self.reason: str | None = None

    def read_mj(self) -> float | None:
        """Millijoules since the first reading; a counter may have wrapped once between two of them."""
        self.reason = None
        try:
            now = {package: int(_text(package / "energy_uj")) for package in self._packages}
            steps_uj = [self._step_uj(package, value_uj) for package, value_uj in now.items()]
        except PermissionError as error:
            self.reason = (
                f"the CPU's energy counter may not be read ({error.filename}); as root: "
                f"chmod a+r {self._packages[0].parent}/intel-rapl:*/energy_uj, until the next boot"
            )
            return None
        except (OSError, ValueError) as error:
            self.reason = f"the CPU's energy counter cannot be read: {error}"
            return None
        self._last_uj = now
        self._total_uj += sum(steps_uj)
        return self._total_uj / 1e3

    def _step_uj(self, package: Path, value_uj: int) -> int:
        step_uj = value_uj - self._last_uj.get(package, value_uj)
        return step_uj if step_uj >= 0 else step_uj + int(_text(package / "max_energy_range_uj"))


def rapl_counter(root: Path = POWERCAP) -> RaplCounter | str:
    """The counter of this machine's CPU packages, or the reason why there is none.

    Args:
        root: where powercap's zones are.
    """
    zones = (zone for zone in sorted(root.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", zone.name))
    packages = [zone for zone in zones if re.fullmatch(r"package-\d+(-die-\d+)?", _name(zone))]
    if not packages:
        return (
            f"no energy: this machine shows no energy counter of its CPU ({root}/intel-rapl:N); virtual machines and "
            "containers hide it, on others load the kernel module intel_rapl_msr"
        )
    counter = RaplCounter(packages)
    return counter if counter.read_mj() is not None else f"no energy: {counter.reason}"


def measure(call: Call, *, window_seconds: float = 5.0) -> Energy | str:
    """Energy of one call on the CPU, that of everything else on its packages included; or why there is none.

    Args:
        call: what is measured.
        window_seconds: of calls, at least 1.

    Raises:
        UsageError: a window under a second.
    """
    return measure_energy(call, lambda: None, rapl_counter(), window_seconds=window_seconds)


def _name(zone: Path) -> str:
    try:
        return _text(zone / "name").strip()
    except (OSError, ValueError):
        return ""


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii")
