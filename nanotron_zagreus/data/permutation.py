"""Order the windows of a source without storing an order: a keyed permutation of range(size).

A Feistel network on the smallest power of two that holds the range, walked until it lands inside
(Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Any position is computed alone, so
an epoch over a trillion tokens costs no memory and no start-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
        num_bits = max(1, (size - 1).bit_length())
        right_bits = num_bits // 2
        constants = [size, right_bits, (1 << right_bits) - 1, (1 << (num_bits - right_bits)) - 1]
        digest = hashlib.blake2b(key.encode(), digest_size=8 * _NUM_ROUNDS).digest()
        self.constants = np.concatenate([np.array(constants, dtype=np.uint64), np.frombuffer(digest, dtype="<u8")])
        """uint64: size, bits of the right half, masks of the right and the left half, a key per round."""

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the values at ``positions`` (int64, any shape, each in ``range(size)``) as int64."""
        flat = positions.ravel()
        return permute([self], np.zeros(flat.size, dtype=np.int64), flat).reshape(positions.shape)


def permute(permutations: Sequence[KeyedPermutation], which: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return each position's value in a permutation of its own, computed together: a call of numpy costs more than
    what it does for the few positions of one source.

    Args:
        permutations: any number.
        which: int64 `[n]`, the permutation of each position, by its place in ``permutations``.
        positions: int64 `[n]`, each in the range of its permutation.

    Returns:
        int64 `[n]`.
    """
    if not positions.size:
        return positions.copy()
    table = np.stack([permutation.constants for permutation in permutations], axis=1)
    constants = table[:, which]
    values = _encrypt(positions.astype(np.uint64), constants)
    outside = np.flatnonzero(values >= constants[0])
    while outside.size:
        constants = table[:, which[outside]]
        again = _encrypt(values[outside], constants)
        values[outside] = again
        outside = outside[again >= constants[0]]
    return values.astype(np.int64)


def _encrypt(values: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """Return ``values`` uint64 `[n]` encrypted, each with its column of ``constants`` `[4 + rounds, n]`."""
    _, right_bits, right_mask, left_mask, *round_keys = constants
    left = values >> right_bits
    right = values & right_mask
    for index in range(0, _NUM_ROUNDS, 2):
        left ^= _mix(right + round_keys[index]) & left_mask
        right ^= _mix(left + round_keys[index + 1]) & right_mask
    return (left << right_bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit ``values`` in place and return them; the high bits are folded down, callers keep the low ones."""
    values ^= values >> _SHIFT_1
    values *= _MULTIPLIER_1
    values ^= values >> _SHIFT_2
    values *= _MULTIPLIER_2
    values ^= values >> _SHIFT_3
    return values
