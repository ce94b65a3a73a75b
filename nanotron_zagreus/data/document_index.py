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

from nanotron_zagreus.data.open_shards import OpenShards, unreadable
from nanotron_zagreus.data.shards import INDEX_ENTRY_BYTES, read_fully
from nanotron_zagreus.errors import WorkError

_BLOCK = 512
"""Index entries per read: 4 KiB, a page."""
_BLOCK_BYTES = _BLOCK * INDEX_ENTRY_BYTES
_NUM_GUESSES = 3
_BEYOND = np.iinfo(np.uint64).max
"""Stands where a file has no more entries: after every token."""


def document_starts(
    files: OpenShards, numbers: Sequence[int], first_tokens: Sequence[int], num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where documents start inside windows of ``num_tokens``, their first token aside.

    Args:
        files: this thread's open shards.
        numbers: one per window, its shard.
        first_tokens: one per window, its shard's token that the window begins with.
        num_tokens: of a window.

    Returns:
        int64 `[starts]`, the windows' numbers, increasing, and int64 `[starts]`, tokens into the window, in
        (0, num_tokens), increasing within a window.

    Raises:
        WorkError: an index cannot be read, or ends early: it was truncated after it was checked.
    """
    first = np.array(first_tokens, dtype=np.uint64)[:, None]
    last = first + np.uint64(num_tokens)
    ends, unfound = _guessed_blocks(files, numbers, first_tokens, num_tokens)
    windows, columns = np.nonzero((ends > first) & (ends < last))
    starts = (ends[windows, columns] - first[windows, 0]).astype(np.int64)
    for window in unfound:
        found = starts_by_bisection(files, numbers[window], first_tokens[window], num_tokens)
        others = windows != window
        place = int(np.searchsorted(windows[others], window))
        starts = np.insert(starts[others], place, found)
        windows = np.insert(windows[others], place, np.full(found.size, window))
    # A document without tokens ends where the one before it ended.
    is_new = np.ones(starts.size, dtype=bool)
    is_new[1:] = (starts[1:] != starts[:-1]) | (windows[1:] != windows[:-1])
    return windows[is_new], starts[is_new]


def starts_by_bisection(files: OpenShards, number: int, first_token: int, num_tokens: int) -> np.ndarray:
    """Return the starts of one window, wherever in the index they are and however many: the plain reference.

    Repeated where documents without tokens lie between.
    """
    num_documents = files.shards[number].num_documents
    low, high = 0, num_documents
    while low < high:  # the first document that ends after first_token
        middle = (low + high) // 2
        if int(_read_block(files, number, middle, 1)[0]) > first_token:
            high = middle
        else:
            low = middle + 1
    pieces = [np.empty(0, dtype=np.uint64)]
    while low < num_documents:
        ends = _read_block(files, number, low, _BLOCK)
        inside = int(np.searchsorted(ends, np.uint64(first_token + num_tokens), side="left"))
        pieces.append(ends[:inside])
        low += ends.size
        if inside < ends.size:
            break
    return np.concatenate(pieces).astype(np.int64) - first_token


def _guessed_blocks(
    files: OpenShards, numbers: Sequence[int], first_tokens: Sequence[int], num_tokens: int
) -> tuple[np.ndarray, list[int]]:
    """Return document ends u64 `[windows, _BLOCK]`, and the windows whose row does not hold all that it should."""
    sizes = [(files.shards[number].num_documents, files.shards[number].num_tokens) for number in numbers]
    num_documents, num_shard_tokens = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    first = np.array(first_tokens, dtype=np.int64)
    middle, last = first + num_tokens // 2, first + num_tokens
    guesses = middle * (num_documents / np.maximum(1, num_shard_tokens))
    ends, unfound = np.empty((len(numbers), _BLOCK), dtype=np.uint64), np.arange(len(numbers))
    for _ in range(_NUM_GUESSES):
        begins = (np.minimum(guesses, num_documents - _BLOCK // 2).astype(np.int64) - _BLOCK // 2).clip(0)
        _fill(files, numbers, begins, ends, unfound)
        earliest, latest = ends[unfound, 0], ends[unfound, -1]
        is_late = (begins > 0) & (earliest > first.astype(np.uint64))
        is_early = (latest < last.astype(np.uint64)) & (begins + _BLOCK < num_documents)
        missed = np.flatnonzero(is_late | is_early)
        if not missed.size:
            return ends, []
        # Every row that missed is full: a shorter index is read from its beginning to its end.
        at, entry = np.where(is_late, earliest, latest), np.where(is_late, begins, begins + _BLOCK)
        per_token = _BLOCK / np.maximum(1, (latest - earliest).astype(np.float64))
        guesses = (entry + (middle - at.astype(np.float64)) * per_token)[missed]
        unfound, num_documents, first = unfound[missed], num_documents[missed], first[missed]
        middle, last = middle[missed], last[missed]
    ends[unfound] = _BEYOND
    return ends, unfound.tolist()


def _fill(files: OpenShards, numbers: Sequence[int], begins: np.ndarray, ends: np.ndarray, windows: np.ndarray) -> None:
    """Fill the rows ``windows`` of ``ends`` with document ends from entries ``begins`` on."""
    if not windows.size:
        return
    memory = ends.data.cast("B")
    for window, begin in zip(windows.tolist(), begins.tolist(), strict=True):
        number, place = numbers[window], window * _BLOCK_BYTES
        wanted = min(_BLOCK, files.shards[number].num_documents - begin)
        if wanted == _BLOCK:
            row = memory[place : place + _BLOCK_BYTES]
            try:
                if os.preadv(files.index(number), (row,), begin * INDEX_ENTRY_BYTES) == _BLOCK_BYTES:
                    continue
            except OSError as error:
                raise unreadable(files.shards[number].index_path, error) from error
        ends[window, wanted:] = _BEYOND
        if wanted > 0:
            ends[window, :wanted] = _read_block(files, number, begin, wanted)


def _read_block(files: OpenShards, number: int, first: int, num_entries: int) -> np.ndarray:
    """Return document ends from entry ``first`` on, u64, ``num_entries`` or as many as there are."""
    shard = files.shards[number]
    num_entries = min(num_entries, shard.num_documents - first)
    try:
        block = read_fully(files.index(number), num_entries * INDEX_ENTRY_BYTES, first * INDEX_ENTRY_BYTES)
    except OSError as error:
        raise unreadable(shard.index_path, error) from error
    if len(block) < num_entries * INDEX_ENTRY_BYTES:
        raise WorkError(
            f"{shard.index_path}: ends before entry {first + num_entries} of {shard.num_documents}; the file was "
            "shortened while in use, restore it and resume from the last checkpoint"
        )
    return np.frombuffer(block, dtype="<u8")
