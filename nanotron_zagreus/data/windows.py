"""Read windows of tokens out of shards by position, straight into the caller's array.

By `pread`, not through memory maps: a file that is shortened while in use is then an error with its name, where a map
would end the process by SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from nanotron_zagreus.data.open_files import OpenFiles
from nanotron_zagreus.data.shards import Shard
from nanotron_zagreus.errors import WorkError


def read_windows(files: OpenFiles, out: np.ndarray, shards: Sequence[Shard], first_tokens: Sequence[int]) -> None:
    """Fill each row of ``out`` from a token of a shard on.

    Args:
        files: this thread's open files.
        out: contiguous `[rows, tokens]`, of the shards' dtype.
        shards: one per row.
        first_tokens: one per row, its shard's token that the row begins with.

    Raises:
        WorkError: a file ends early: it was truncated after it was checked.
    """
    if not out.size:
        return
    memory, num_bytes, begin = out.data.cast("B"), out[0].nbytes, 0
    for shard, first_token in zip(shards, first_tokens, strict=True):
        row = memory[begin : begin + num_bytes]
        begin += num_bytes
        descriptor, offset = files.descriptor(shard.path), first_token * shard.token_size
        num_read = os.preadv(descriptor, [row], offset)
        if num_read != num_bytes and (num_read := _read_rest(descriptor, row, num_read, offset)) != num_bytes:
            raise WorkError(
                f"{shard.path}: got {num_read} of {num_bytes} bytes at token {first_token}; the file was shortened "
                "while in use, restore it and resume from the last checkpoint"
            )


def _read_rest(descriptor: int, row: memoryview, num_read: int, offset: int) -> int:
    """Go on after a read that gave less than was asked for; return the bytes of ``row`` that are filled in the end."""
    while num_read < len(row):
        more = os.preadv(descriptor, [row[num_read:]], offset + num_read)
        if not more:
            break
        num_read += more
    return num_read
