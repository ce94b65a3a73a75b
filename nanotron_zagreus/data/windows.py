"""Read windows of tokens out of shards by position, straight into the caller's array.

By `pread`, not through memory maps: a file that is shortened while in use is then an error with its name, where a map
would end the process by SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from nanotron_zagreus.data.open_shards import OpenShards, unreadable
from nanotron_zagreus.errors import WorkError


def read_windows(files: OpenShards, out: np.ndarray, numbers: Sequence[int], first_tokens: Sequence[int]) -> None:
    """Fill each row of ``out`` from a token of a shard on.

    Args:
        files: this thread's open shards.
        out: contiguous `[rows, tokens]`, of the shards' dtype.
        numbers: one per row, its shard.
        first_tokens: one per row, its shard's token that the row begins with.

    Raises:
        WorkError: a file cannot be read, or ends early: it was truncated after it was checked.
    """
    if not out.size:
        return
    memory, num_bytes, token_size, begin = out.data.cast("B"), out[0].nbytes, out.itemsize, 0
    for number, first_token in zip(numbers, first_tokens, strict=True):
        end = begin + num_bytes
        row, descriptor, offset = memory[begin:end], files.tokens(number), first_token * token_size
        begin = end
        try:
            num_read = os.preadv(descriptor, (row,), offset)
            if num_read != num_bytes:
                num_read = _read_rest(descriptor, row, num_read, offset)
        except OSError as error:
            raise unreadable(files.shards[number].path, error) from error
        if num_read != num_bytes:
            raise WorkError(
                f"{files.shards[number].path}: got {num_read} of {num_bytes} bytes at token {first_token}; the file "
                "was shortened while in use, restore it and resume from the last checkpoint"
            )


def _read_rest(descriptor: int, row: memoryview, num_read: int, offset: int) -> int:
    """Go on after a read that gave less than was asked for; return the bytes of ``row`` that are filled in the end."""
    while num_read < len(row):
        more = os.preadv(descriptor, [row[num_read:]], offset + num_read)
        if not more:
            break
        num_read += more
    return num_read
