"""From a study's storage to what people read: tables, figures, ``report.md`` and one self-contained ``report.html``.

``read_run`` or ``read`` gives a :class:`Record`, ``render`` writes it into a run directory. Importing this package
imports none of the heavy libraries that do it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vnas.report.output import Paths, render
    from vnas.report.reading import read, read_run
    from vnas.report.record import Record, Retrained

__all__ = ["Paths", "Record", "Retrained", "read", "read_run", "render"]

_HOMES = {
    "Paths": "output",
    "Record": "record",
    "Retrained": "record",
    "read": "reading",
    "read_run": "reading",
    "render": "output",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
