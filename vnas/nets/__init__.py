"""Plain nets: what they are, the form that trains, the form that is deployed, and what they cost.

Importing this package registers the published nets with timm.
"""

from vnas.nets import registry as registry
from vnas.nets.architecture import Architecture, Stage, Stem
from vnas.nets.checkpoint import load_checkpoint, save_weights
from vnas.nets.cost import Cost, Operator, cost, operators
from vnas.nets.fuse import fuse, merge
from vnas.nets.fused import FusedVanillaNet
from vnas.nets.vanillanet import VanillaNet, build

__all__ = [
    "Architecture",
    "Cost",
    "FusedVanillaNet",
    "Operator",
    "Stage",
    "Stem",
    "VanillaNet",
    "build",
    "cost",
    "fuse",
    "load_checkpoint",
    "merge",
    "operators",
    "save_weights",
]
