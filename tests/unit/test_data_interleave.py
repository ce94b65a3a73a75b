"""The interleave: exact shares, every prefix close to them, each number computed alone."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data.interleave import MAX_SAMPLES, Interleave, whole_shares

SHARES = st.lists(st.integers(1, 10**12), min_size=1, max_size=64)
SMALL_AND_LARGE = st.lists(st.one_of(st.integers(1, 3), st.integers(10**8, 10**12)), min_size=2, max_size=64)


def deviations(interleave: Interleave, num_samples: int) -> list[float]:
    total = sum(interleave.shares)
    counts = interleave.counts(num_samples)
    return [
        abs(float(count - Fraction(num_samples * share, total)))
        for count, share in zip(counts, interleave.shares, strict=True)
    ]


@settings(max_examples=100, deadline=None)
@given(shares=st.one_of(SHARES, SMALL_AND_LARGE), num_samples=st.integers(0, 2**29))
def test_every_prefix_is_within_two_samples_of_the_declared_shares(shares, num_samples):
    interleave = Interleave(shares)
    assert sum(interleave.counts(num_samples)) == num_samples
    assert max(deviations(interleave, num_samples)) < 2


def assert_located_as_counted(interleave, first, num_samples):
    """Compare the places of samples from ``first`` on with the counts of those before them."""
    source, position = interleave.locate(np.arange(first, first + num_samples))
    counts = interleave.counts(first)
    for one_source, one_position in zip(source.tolist(), position.tolist(), strict=True):
        assert one_position == counts[one_source]
        counts[one_source] += 1
    assert counts == interleave.counts(first + num_samples)


@settings(max_examples=40, deadline=None)
@given(shares=SHARES, first=st.integers(0, MAX_SAMPLES - 300))
def test_located_samples_agree_with_the_counts_before_them(shares, first):
    assert_located_as_counted(Interleave(shares), first, 200)


@settings(max_examples=20, deadline=None)
@given(shares=SHARES, numbers=st.lists(st.integers(0, 2**29), min_size=1, max_size=20))
def test_a_sample_does_not_depend_on_what_it_is_asked_with(shares, numbers):
    interleave = Interleave(shares)
    source, position = interleave.locate(np.array(numbers))
    for row, number in enumerate(numbers):
        alone = interleave.locate(np.array([number]))
        assert (source[row], position[row]) == (alone[0][0], alone[1][0])


@pytest.mark.parametrize("num_sources", [2, 10, 64])
def test_no_prefix_of_twenty_thousand_samples_deviates_by_two(num_sources):
    rng = np.random.default_rng(num_sources)
    interleave = Interleave(rng.integers(1, 10**6, num_sources).tolist())
    source, _ = interleave.locate(np.arange(20_000))
    drawn = np.cumsum(source[:, None] == np.arange(num_sources), axis=0)
    wanted = np.arange(1, 20_001)[:, None] * np.array(interleave.shares) / sum(interleave.shares)
    assert np.abs(drawn - wanted).max() < 2


@pytest.mark.parametrize("shares", [[2**59 - 3, 2**58 + 1, 7], [10**12 // n for n in range(1, 21)]])
def test_the_last_samples_are_exact_where_floats_and_64_bit_products_are_not(shares):
    assert_located_as_counted(Interleave(shares), MAX_SAMPLES - 1000, 500)


def test_pinned_order_does_not_change_between_versions():
    source, _ = Interleave([3, 2, 1]).locate(np.arange(12))
    assert source.tolist() == [1, 0, 2, 0, 1, 0, 1, 0, 2, 0, 1, 0]


def test_one_source_gets_everything():
    source, position = Interleave([3]).locate(np.array([0, 9, 4]))
    assert source.tolist() == [0, 0, 0]
    assert position.tolist() == [0, 9, 4]


@pytest.mark.parametrize("shares", [[], [0, 1], [-1], [2**60]])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares"):
        Interleave(shares)


def test_written_decimals_become_the_smallest_whole_shares():
    assert whole_shares([Fraction("0.4"), Fraction("0.4"), Fraction("0.2")]) == (2, 2, 1)


@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=64))
def test_any_floats_become_shares_the_interleave_takes(weights):
    shares = whole_shares([Fraction(repr(weight)) for weight in weights])
    Interleave(shares)
    for share, weight in zip(shares, weights, strict=True):
        assert share / sum(shares) == pytest.approx(weight / sum(weights), rel=1e-6)
