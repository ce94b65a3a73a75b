"""Interleave sources by their shares without state: which source sample k comes from, and how many came before.

A binary tree splits the sample numbers. At a node with total share T whose left child has share L, the
first n samples hold floor(n L / T + 1/2) of the left child; sample n goes left where that count grows.
The tree is Huffman's: an inner child never has more than 2/3 of its parent, so the rounding errors of the
ancestors shrink on the way down and a prefix deviates from the declared share of a source by less than
1/2 (1 + 1 + 2/3 + 4/9 + ...) = 2 samples, for any number of sources and any shares.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

MAX_SAMPLES = 2**50
_MAX_TOTAL = 2**60


@dataclass(frozen=True)
class _Split:
    """An inner node: ``left_share`` of its ``total`` samples belong to ``left``."""

    left: _Split | int
    right: _Split | int
    left_share: int
    total: int


class Interleave:
    """The order in which a stage draws from its sources."""

    def __init__(self, shares: Sequence[int]) -> None:
        """Build the tree for positive whole ``shares`` whose sum is below 2**60."""
        if not shares or min(shares) < 1 or sum(shares) >= _MAX_TOTAL:
            raise ValueError(f"shares: got {list(shares)}, expected positive whole numbers with a sum below 2**60")
        self.shares = tuple(shares)
        self._root = _huffman_tree(self.shares)

    def counts(self, num_samples: int) -> list[int]:
        """Return how many of the first ``num_samples`` samples come from each source; exact at any size."""
        counts = [0] * len(self.shares)
        pending: list[tuple[_Split | int, int]] = [(self._root, num_samples)]
        while pending:
            node, count = pending.pop()
            if isinstance(node, int):
                counts[node] = count
            else:
                left = (2 * count * node.left_share + node.total) // (2 * node.total)
                pending += [(node.left, left), (node.right, count - left)]
        return counts

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each sample its source and how many samples of that source came before it.

        Args:
            samples: int64 [n], each in ``range(MAX_SAMPLES)``, in any order.

        Returns:
            int64 [n] index into the shares, and int64 [n] position within that source's draws.
        """
        source = np.empty(samples.shape, dtype=np.int64)
        position = np.empty(samples.shape, dtype=np.int64)
        everything = np.arange(samples.size)
        pending: list[tuple[_Split | int, np.ndarray, np.ndarray]] = [(self._root, everything, samples)]
        while pending:
            node, where, numbers = pending.pop()
            if isinstance(node, int):
                source[where] = node
                position[where] = numbers
                continue
            before, goes_left = _count_left(numbers, node)
            goes_right = ~goes_left
            pending.append((node.left, where[goes_left], before[goes_left]))
            pending.append((node.right, where[goes_right], (numbers - before)[goes_right]))
        return source, position


def whole_shares(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return positive ``weights`` as whole numbers in the same proportions, with a sum below 2**60.

    Exact unless the common denominator is astronomical; then each share is rounded at 2**-59 of the
    whole, which moves no sample within a quadrillion.
    """
    denominator = math.lcm(*(weight.denominator for weight in weights))
    shares = [int(weight * denominator) for weight in weights]
    divisor = math.gcd(*shares)
    shares = [share // divisor for share in shares]
    total = sum(shares)
    if total >= _MAX_TOTAL:
        shares = [max(1, round(Fraction(share * (_MAX_TOTAL // 2), total))) for share in shares]
    return tuple(shares)


def _count_left(numbers: np.ndarray, node: _Split) -> tuple[np.ndarray, np.ndarray]:
    """Return floor(n left_share / total + 1/2) for each n, exactly, and whether it grows from n to n + 1.

    The product n x left_share overflows 64 bits. A float64 estimate is off by at most one for n below
    2**50, and the remainder that corrects it is small, so wrapping arithmetic gives it exactly.
    """
    double_left, double_total = np.int64(2 * node.left_share), np.int64(2 * node.total)
    count = np.floor(numbers * (node.left_share / node.total) + 0.5).astype(np.int64)
    remainder = numbers * double_left + np.int64(node.total) - count * double_total
    correction = (remainder >= double_total).astype(np.int64) - (remainder < 0)
    remainder -= correction * double_total
    return count + correction, remainder >= double_total - double_left


def _huffman_tree(shares: tuple[int, ...]) -> _Split | int:
    """Return the tree that joins the two smallest nodes first; equal shares join in the order of the sources."""
    heap: list[tuple[int, int, _Split | int]] = [(share, index, index) for index, share in enumerate(shares)]
    heapq.heapify(heap)
    serial = len(shares)
    while len(heap) > 1:
        small_share, _, small = heapq.heappop(heap)
        large_share, _, large = heapq.heappop(heap)
        total = small_share + large_share
        heapq.heappush(heap, (total, serial, _Split(large, small, large_share, total)))
        serial += 1
    return heap[0][2]
