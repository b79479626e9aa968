"""What may vary and what to run: frozen, strict configuration, read from TOML.

A study file names a search space (or holds one inline). Lists in a space are choices; a single value is a
fixed one. An unknown key is an error that names the nearest known one.
"""

from vnas.config.options import Strict
from vnas.config.space import AnnealSpace, SpaceConfig, StageSpace, StemSpace
from vnas.config.study import (
    MAY_CHANGE_ON_RESUME,
    ConstraintsConfig,
    FrontConfig,
    GatesConfig,
    LatencyConfig,
    RungsConfig,
    SamplerName,
    StudyConfig,
    WorkersConfig,
    changed_fields,
    load_study,
    study_from_toml,
)
from vnas.config.tables import config_files, differences, flat, parsed, read_shipped, read_toml
from vnas.config.training import PAPER_ANNEAL, Anneal, DataConfig, TrainingConfig

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "PAPER_ANNEAL",
    "Anneal",
    "AnnealSpace",
    "ConstraintsConfig",
    "DataConfig",
    "FrontConfig",
    "GatesConfig",
    "LatencyConfig",
    "RungsConfig",
    "SamplerName",
    "SpaceConfig",
    "StageSpace",
    "StemSpace",
    "Strict",
    "StudyConfig",
    "TrainingConfig",
    "WorkersConfig",
    "changed_fields",
    "config_files",
    "differences",
    "flat",
    "load_study",
    "parsed",
    "read_shipped",
    "read_toml",
    "study_from_toml",
]
