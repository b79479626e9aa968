import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnas.errors import DataError
from vnas.training.images.splits import stratified_cut


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_cut_shares_out_every_class(counts: list[int], share: float, seed: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    names = [str(label) for label in range(len(counts))]
    everything = np.arange(len(targets))
    kept, held = stratified_cut(targets, everything, share, seed, names, "test")
    assert sorted([*kept, *held]) == list(everything)
    for label, count in enumerate(counts):
        held_of_class = int((targets[held] == label).sum())
        assert 1 <= held_of_class < count
        assert abs(held_of_class - share * count) <= 1
    again = stratified_cut(targets, everything, share, seed, names, "test")
    assert all(np.array_equal(a, b) for a, b in zip(again, (kept, held), strict=True))


def test_the_seed_decides_what_is_held_out() -> None:
    targets, everything = np.repeat([0, 1], 50), np.arange(100)
    cuts = [stratified_cut(targets, everything, 0.2, seed, ["a", "b"], "test")[1] for seed in (0, 1)]
    assert not np.array_equal(*cuts)


def test_a_class_too_small_to_cut_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'rare' has 1 image\(s\) left; to cut a validation set"):
        stratified_cut(np.array([0, 0, 0, 1]), np.arange(4), 0.5, 0, ["common", "rare"], "validation")
