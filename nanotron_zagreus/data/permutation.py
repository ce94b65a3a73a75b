"""Order the windows of a source without storing an order: a keyed permutation of range(size).

A Feistel network on the smallest power of two that holds the range, walked until it lands inside
(Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Any position is computed alone, so
an epoch over a trillion tokens costs no memory and no start-up.
"""

from __future__ import annotations

import hashlib

import numpy as np

_NUM_ROUNDS = 8  # even, so that both halves are mixed equally often; small ranges need more than the classic 4
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)  # finalizer of splitmix64 (Steele, Lea and Flood 2014)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


class KeyedPermutation:
    """A permutation of ``range(size)`` chosen by a text key; the same on every machine and version."""

    def __init__(self, size: int, key: str) -> None:
        if not 0 < size < 2**62:
            raise ValueError(f"size: got {size}, expected 1 to 2**62 - 1")
        self.size = size
        num_bits = max(1, (size - 1).bit_length())
        self._right_bits = np.uint64(num_bits // 2)
        self._right_mask = np.uint64((1 << (num_bits // 2)) - 1)
        self._left_mask = np.uint64((1 << (num_bits - num_bits // 2)) - 1)
        digest = hashlib.blake2b(key.encode(), digest_size=8 * _NUM_ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the values at ``positions`` (int64, any shape, each in ``range(size)``) as int64."""
        values = self._encrypt(positions.astype(np.uint64).ravel())
        size = np.uint64(self.size)
        outside = np.flatnonzero(values >= size)
        while outside.size:
            values[outside] = self._encrypt(values[outside])
            outside = outside[values[outside] >= size]
        return values.astype(np.int64).reshape(positions.shape)

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left = values >> self._right_bits
        right = values & self._right_mask
        for index in range(0, _NUM_ROUNDS, 2):
            left ^= _mix(right + self._round_keys[index]) & self._left_mask
            right ^= _mix(left + self._round_keys[index + 1]) & self._right_mask
        return (left << self._right_bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit ``values`` in place and return them; the high bits are folded down, callers keep the low ones."""
    values ^= values >> _SHIFT_1
    values *= _MULTIPLIER_1
    values ^= values >> _SHIFT_2
    values *= _MULTIPLIER_2
    values ^= values >> _SHIFT_3
    return values
