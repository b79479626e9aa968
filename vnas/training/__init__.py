"""Brief deep training: data, lambda schedules and the run that ends in a fused net.

    from vnas.training import fit, open_data
    result = fit(Architecture.named("vanillanet_5", num_classes=10), open_data("digits"), config, seed=0, device=device)

Names are loaded at first use, so that ``python -m vnas.training --help`` need not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vnas.training.anneal import slopes
    from vnas.training.checkpointing import Checkpoint
    from vnas.training.fit import evaluate, fit
    from vnas.training.images.data import Data, open_data
    from vnas.training.result import EpochRecord, Progress, TrainingResult
    from vnas.training.rungs.training import Rung, RungResult, train_rungs
    from vnas.training.seeding import seeded

__all__ = [
    "Checkpoint",
    "Data",
    "EpochRecord",
    "Progress",
    "Rung",
    "RungResult",
    "TrainingResult",
    "evaluate",
    "fit",
    "open_data",
    "seeded",
    "slopes",
    "train_rungs",
]

_HOMES = {
    "Checkpoint": "checkpointing",
    "Data": "images.data",
    "EpochRecord": "result",
    "Progress": "result",
    "Rung": "rungs.rung",
    "RungResult": "rungs.rung",
    "TrainingResult": "result",
    "evaluate": "fit",
    "open_data": "images.data",
    "seeded": "seeding",
    "slopes": "anneal",
    "train_rungs": "rungs.training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, where ``fit`` names the function although a module in it has that name too.

    Importing a submodule sets an attribute of its name on the package; here that is not done for ``fit``.
    """

    @property
    def fit(self) -> object:
        return import_module(f"{self.__name__}.fit").fit

    @fit.setter
    def fit(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
