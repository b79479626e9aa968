"""Brief deep training: data, lambda schedules and the run that ends in a fused net."""

from vnas.training.anneal import slopes
from vnas.training.data import Data, open_data
from vnas.training.fit import evaluate, fit
from vnas.training.result import EpochRecord, Progress, TrainingResult
from vnas.training.seeding import seeded

__all__ = [
    "Data",
    "EpochRecord",
    "Progress",
    "TrainingResult",
    "evaluate",
    "fit",
    "open_data",
    "seeded",
    "slopes",
]
