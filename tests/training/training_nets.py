"""The smallest net that has every kind of layer, for the digits."""

from __future__ import annotations

from vnas.nets import Architecture, Stage, Stem

TINY = Architecture(
    Stem(4, kernel=2, stride=2, padding=0, series=1),
    (Stage(6, stride=2, series=1),),
    in_chans=1,
    image_size=8,
    num_classes=10,
)
