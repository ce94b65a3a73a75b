"""The order of windows: a bijection for every size and key, and another one for every key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data.permutation import KeyedPermutation, permute


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.text(max_size=20))
def test_every_position_once(size, key):
    values = KeyedPermutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(values), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(64, 5000), seed=st.integers(), epoch=st.integers(0, 10))
def test_another_epoch_is_another_order(size, seed, epoch):
    positions = np.arange(size)
    one = KeyedPermutation(size, f"{seed}|{epoch}")(positions)
    other = KeyedPermutation(size, f"{seed}|{epoch + 1}")(positions)
    assert (one == other).mean() < 0.2  # two random orders agree at about one position in all


def test_a_position_is_computed_alone():
    permutation = KeyedPermutation(10**12, "key")
    many = permutation(np.array([[5, 10**12 - 1], [7, 123_456_789]]))
    assert many.shape == (2, 2)
    assert many[1, 0] == permutation(np.array([7]))[0]
    assert (many >= 0).all() and (many < 10**12).all()


def test_pinned_values_do_not_change_between_versions():
    """A run resumed by a later version must see the same order."""
    assert KeyedPermutation(1000, "8|abc|0")(np.arange(6)).tolist() == [407, 461, 718, 470, 66, 124]


def test_all_orders_of_a_small_range_occur():
    orders = {tuple(KeyedPermutation(4, str(key))(np.arange(4)).tolist()) for key in range(2000)}
    assert len(orders) == 24


def test_neighbours_are_spread_over_the_range():
    """The mean jump between neighbours of a random order is a third of the range."""
    size = 1_000_003
    values = KeyedPermutation(size, "spread")(np.arange(100_000))
    assert np.abs(np.diff(values)).mean() / size == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("size", [0, -1, 2**62])
def test_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="size"):
        KeyedPermutation(size, "key")


def test_positions_of_many_permutations_are_those_of_each():
    rng = np.random.default_rng(0)
    permutations = [KeyedPermutation(size, str(size)) for size in (1, 5, 1025, 10**12)]
    which = rng.integers(0, len(permutations), 500)
    positions = rng.integers(0, np.array([1, 5, 1025, 10**12])[which])
    together = permute(permutations, which, positions)
    alone = [int(permutations[one](positions[[row]])[0]) for row, one in enumerate(which.tolist())]
    assert together.tolist() == alone
    assert permute([], which[:0], positions[:0]).tolist() == []
