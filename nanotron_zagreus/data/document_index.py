"""Find where documents start inside windows, in the shards' index files.

The indices of a trillion tokens do not fit in memory: they are searched on disk, a page at a time. Where in its file a
window's documents are listed is guessed from the mean length of a document, for all windows at once; a guess that
missed is corrected by how far off it was and how long documents are there, and the few that go on missing are found by
bisection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from nanotron_zagreus.data.open_files import OpenFiles
from nanotron_zagreus.data.shards import INDEX_ENTRY_BYTES, Shard, read_fully
from nanotron_zagreus.errors import WorkError

_BLOCK = 512
"""Index entries per read: 4 KiB, a page."""
_NUM_GUESSES = 3
_BEYOND = np.iinfo(np.uint64).max
"""Stands where a file has no more entries: after every token."""


def document_starts(
    files: OpenFiles, shards: Sequence[Shard], first_tokens: Sequence[int], num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where documents start inside windows of ``num_tokens``, their first token aside.

    Args:
        files: this thread's open files.
        shards: one per window.
        first_tokens: one per window, its shard's token that the window begins with.
        num_tokens: of a window.

    Returns:
        int64 `[starts]`, the windows' numbers, increasing, and int64 `[starts]`, tokens into the window, in
        (0, num_tokens), increasing within a window.

    Raises:
        WorkError: an index ends early: it was truncated after it was checked.
    """
    first = np.array(first_tokens, dtype=np.uint64)[:, None]
    last = first + np.uint64(num_tokens)
    ends, unfound = _guessed_blocks(files, shards, first_tokens, num_tokens)
    windows, columns = np.nonzero((ends > first) & (ends < last))
    starts = (ends[windows, columns] - first[windows, 0]).astype(np.int64)
    for window in unfound:
        found = starts_by_bisection(files, shards[window], first_tokens[window], num_tokens)
        others = windows != window
        place = int(np.searchsorted(windows[others], window))
        starts = np.insert(starts[others], place, found)
        windows = np.insert(windows[others], place, np.full(found.size, window))
    # A document without tokens ends where the one before it ended.
    is_new = np.ones(starts.size, dtype=bool)
    is_new[1:] = (starts[1:] != starts[:-1]) | (windows[1:] != windows[:-1])
    return windows[is_new], starts[is_new]


def starts_by_bisection(files: OpenFiles, shard: Shard, first_token: int, num_tokens: int) -> np.ndarray:
    """Return the starts of one window, wherever in the index they are and however many: the plain reference.

    Repeated where documents without tokens lie between.
    """
    low, high = 0, shard.num_documents
    while low < high:  # the first document that ends after first_token
        middle = (low + high) // 2
        if int(_read_block(files, shard, middle, 1)[0]) > first_token:
            high = middle
        else:
            low = middle + 1
    pieces = [np.empty(0, dtype=np.uint64)]
    while low < shard.num_documents:
        ends = _read_block(files, shard, low, _BLOCK)
        inside = int(np.searchsorted(ends, np.uint64(first_token + num_tokens), side="left"))
        pieces.append(ends[:inside])
        low += ends.size
        if inside < ends.size:
            break
    return np.concatenate(pieces).astype(np.int64) - first_token


def _guessed_blocks(
    files: OpenFiles, shards: Sequence[Shard], first_tokens: Sequence[int], num_tokens: int
) -> tuple[np.ndarray, list[int]]:
    """Return document ends u64 `[windows, _BLOCK]`, and the windows whose row does not hold all that it should."""
    ends = np.empty((len(shards), _BLOCK), dtype=np.uint64)
    half = num_tokens // 2
    guesses = [
        (first_token + half) * shard.num_documents // max(1, shard.num_tokens)
        for shard, first_token in zip(shards, first_tokens, strict=True)
    ]
    unfound = list(range(len(shards)))
    for _ in range(_NUM_GUESSES):
        missed = []
        for window in unfound:
            shard, first_token = shards[window], first_tokens[window]
            begin = max(0, min(guesses[window], shard.num_documents - _BLOCK // 2) - _BLOCK // 2)
            row = ends[window]
            num_read = _fill(files, shard, begin, row)
            earliest, latest = int(row[0]), int(row[-1])
            is_late = begin > 0 and earliest > first_token
            if is_late or (latest < first_token + num_tokens and begin + num_read < shard.num_documents):
                missed.append(window)
                at, number = (earliest, begin) if is_late else (latest, begin + num_read)
                guesses[window] = number + (first_token + half - at) * num_read // max(1, latest - earliest)
        unfound = missed
        if not unfound:
            break
    ends[unfound] = _BEYOND
    return ends, unfound


def _fill(files: OpenFiles, shard: Shard, begin: int, row: np.ndarray) -> int:
    """Fill ``row`` u64 with document ends from entry ``begin`` on; return how many there were."""
    wanted = min(_BLOCK, shard.num_documents - begin)
    if wanted == _BLOCK:
        path, num_bytes = shard.index_path, row.nbytes
        if os.preadv(files.descriptor(path), [row.data], begin * INDEX_ENTRY_BYTES) == num_bytes:
            return wanted
    row[wanted:] = _BEYOND
    if wanted > 0:
        row[:wanted] = _read_block(files, shard, begin, wanted)
    return wanted


def _read_block(files: OpenFiles, shard: Shard, first: int, num_entries: int) -> np.ndarray:
    """Return document ends from entry ``first`` on, u64, ``num_entries`` or as many as there are."""
    num_entries = min(num_entries, shard.num_documents - first)
    descriptor = files.descriptor(shard.index_path)
    block = read_fully(descriptor, num_entries * INDEX_ENTRY_BYTES, first * INDEX_ENTRY_BYTES)
    if len(block) < num_entries * INDEX_ENTRY_BYTES:
        raise WorkError(
            f"{shard.index_path}: ends before entry {first + num_entries} of {shard.num_documents}; the file was "
            "shortened while in use, restore it and resume from the last checkpoint"
        )
    return np.frombuffer(block, dtype="<u8")
