"""Read windows of tokens out of shards by position, with few open files and no memory maps of tokens.

`pread` puts a window straight into the caller's array. Each reader keeps its own least recently used
file descriptors, so that 10,000 shards fit any limit; a reader belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np

from nanotron_zagreus.data.shards import INDEX_ENTRY_BYTES, Shard, read_fully
from nanotron_zagreus.errors import WorkError

_MAX_OPEN_FILES = 128
_MOST_OPEN_FILES = 1 << 16
"""No limit is raised beyond: enough for 10,000 shards and their indices on a rank, and the rest of the process."""
_INDEX_BLOCK = 512
"""Index entries per read: 4 KiB, a page."""


def allow_open_files(wanted: int) -> int:
    """Return how many of ``wanted`` files a reader may keep open, after raising the process's soft limit for them.

    Half of the limit stays free for everything else in the process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < min(2 * wanted, most):
        with contextlib.suppress(ValueError, OSError):  # some systems name a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * wanted, most), hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, min(wanted, allowed // 2))


class WindowReader:
    """Reads token windows and document ends of any number of shards. Not thread-safe: one per thread."""

    def __init__(self, max_open_files: int = _MAX_OPEN_FILES) -> None:
        self._max_open_files = max_open_files
        self._descriptors: OrderedDict[Path, int] = OrderedDict()

    def read_into(self, row: np.ndarray, shard: Shard, first_token: int) -> None:
        """Fill ``row`` (contiguous [tokens], of the shard's dtype) from ``first_token`` of the shard.

        Raises:
            WorkError: the file ends early: it was truncated after it was checked.
        """
        descriptor, offset = self._open(shard.path), first_token * shard.token_size
        num_read = os.preadv(descriptor, [row.data], offset)
        if num_read < row.nbytes:
            num_read = _read_rest(descriptor, row, num_read, offset)
        if num_read != row.nbytes:
            raise WorkError(
                f"{shard.path}: got {num_read} of {row.nbytes} bytes at token {first_token}; the file was shortened "
                "while in use, restore it and resume from the last checkpoint"
            )

    def document_starts(self, shard: Shard, first_token: int, num_tokens: int) -> np.ndarray:
        """Return where documents start inside a window, int64, relative to it, in (0, num_tokens), increasing.

        The index is searched on disk, since the indices of a trillion tokens do not fit in memory.
        """
        if not shard.num_documents:
            return np.empty(0, dtype=np.int64)
        first, ends = self._block_around(shard, first_token)
        pieces = []
        while True:
            begin = int(np.searchsorted(ends, np.uint64(first_token), side="right"))
            end = int(np.searchsorted(ends, np.uint64(first_token + num_tokens), side="left"))
            pieces.append(ends[begin:end])
            first += ends.size
            if end < ends.size or first >= shard.num_documents:
                break
            ends = self._index_block(shard, first)
        starts = (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).astype(np.int64) - first_token
        # A document without tokens ends where the one before it ended.
        return np.unique(starts) if starts.size > 1 and (starts[1:] == starts[:-1]).any() else starts

    def _block_around(self, shard: Shard, token: int) -> tuple[int, np.ndarray]:
        """Return the first entry's number and the document ends of a block that holds the first end after ``token``.

        The first guess takes documents to be equally long, which is close enough to need one read as a rule;
        after it the range is halved.
        """
        low, high = 0, shard.num_documents
        guess = token * shard.num_documents // max(1, shard.num_tokens)
        while True:
            first = max(low, min(guess, high - 1) - _INDEX_BLOCK // 2)
            ends = self._index_block(shard, first)
            if int(ends[0]) > token and first > low:
                high = first
            elif int(ends[-1]) <= token and first + ends.size < shard.num_documents:
                low = first + ends.size
            else:
                return first, ends
            guess = (low + high) // 2

    def _index_block(self, shard: Shard, first: int) -> np.ndarray:
        """Return document ends from entry ``first`` on, u64, at least one."""
        descriptor = self._open(shard.index_path)
        block = read_fully(descriptor, _INDEX_BLOCK * INDEX_ENTRY_BYTES, first * INDEX_ENTRY_BYTES)
        if len(block) < INDEX_ENTRY_BYTES:
            raise WorkError(
                f"{shard.index_path}: ends before entry {first} of {shard.num_documents}; the file was shortened while "
                "in use, restore it and resume from the last checkpoint"
            )
        return np.frombuffer(block[: len(block) // INDEX_ENTRY_BYTES * INDEX_ENTRY_BYTES], dtype="<u8")

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            if len(self._descriptors) >= self._max_open_files:
                os.close(self._descriptors.popitem(last=False)[1])
            try:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError as error:
                raise WorkError(f"{path}: the file vanished while in use; restore it and resume") from error
            self._descriptors[path] = descriptor
        else:
            self._descriptors.move_to_end(path)
        return descriptor


def _read_rest(descriptor: int, row: np.ndarray, num_read: int, offset: int) -> int:
    """Go on after a read that gave less than was asked for; return the bytes of ``row`` that are filled in the end."""
    memory = row.view(np.uint8).data
    while num_read < row.nbytes:
        more = os.preadv(descriptor, [memory[num_read:]], offset + num_read)
        if not more:
            break
        num_read += more
    return num_read
