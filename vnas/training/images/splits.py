"""Cutting a set in two, class by class, the same way every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vnas.errors import DataError

Indices = NDArray[np.int64]


def stratified_cut(
    targets: Indices, indices: Indices, share: float, seed: int, class_names: Sequence[str], what: str
) -> tuple[Indices, Indices]:
    """Hold out a share of every class.

    Args:
        targets: class of every sample of the source, (N,).
        indices: the samples to cut, positions in ``targets``.
        share: share of each class to hold out; at least one image of each is held out and at least one kept.
        seed: seed of the cut.
        class_names: names for the message.
        what: what is held out, for the message.

    Returns:
        The kept and the held-out positions, each in ascending order.

    Raises:
        DataError: a class has fewer than two images to cut.
    """
    random = np.random.default_rng(seed)
    held: list[Indices] = []
    for label, name in enumerate(class_names):
        members = indices[targets[indices] == label]
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has {len(members)} image(s) left; to cut a {what} set from the training set each "
                "class needs one image for training and one for each set that is cut"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(random.permutation(members)[:count])
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(indices, held_out, assume_unique=True), held_out


def require_same_classes(train: tuple[str, ...], other: tuple[str, ...], source: str, name: str) -> None:
    """Raise DataError, which names the difference, unless a split has the classes of the training set in its order.

    Args:
        train: classes of the training set.
        other: classes of the split.
        source: what both belong to.
        name: of the split.
    """
    if train == other:
        return
    missing = sorted(set(train) - set(other))
    unknown = sorted(set(other) - set(train))
    differences = [
        f"{what} {', '.join(map(repr, names[:5]))}{' ...' if len(names) > 5 else ''}"
        for what, names in (("lacks", missing), ("has besides", unknown))
        if names
    ] or ["lists them in another order"]
    raise DataError(
        f"{source!r}: its {name} does not have the classes of the training set: it {' and '.join(differences)}"
    )
