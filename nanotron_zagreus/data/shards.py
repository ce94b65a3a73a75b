"""Read datatrove's shard format: which files make a shard, whether it is whole, and what identifies it.

A shard is three files. `X.ds`: little-endian token ids without a header, 2 or 4 bytes each. `X.ds.index`:
the documents' cumulative ends in tokens, u64 little-endian, no leading 0. `X.ds.metadata`: three lines,
`tokenizer|token size`, the number of tokens, and that number for people. A shard is whole only if the
three agree. Reading windows is `windows`, reading every token is `verification`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanotron_zagreus.errors import InputError, MissingInputError

INDEX_ENTRY_BYTES = 8
_SAMPLE_BYTES = 4096
_MAX_METADATA_BYTES = 4096
_FIRST_ITEMS = 32
_SLOW_SECONDS = 0.002
_NUM_THREADS = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """A whole shard; small, for there may be 10,000."""

    folder: Path
    name: str
    """Of the `.ds` file."""
    num_tokens: int
    num_documents: int
    token_size: int
    """Bytes per token: 2 or 4."""
    tokenizer: str
    """The tokenizer's name as the metadata gives it."""

    @property
    def path(self) -> Path:
        """The `.ds` file."""
        return self.folder / self.name

    @property
    def dtype(self) -> np.dtype:
        """The tokens' type on disk."""
        return np.dtype("<u2" if self.token_size == 2 else "<u4")

    @property
    def index_path(self) -> Path:
        """The file of document ends."""
        return self.folder / f"{self.name}.index"


@dataclass(frozen=True)
class ShardSummary:
    """What a glance at a shard's content tells: enough to notice that it changed, and gross corruption."""

    digest: str
    """Of name, size, tokenizer and three blocks of tokens."""
    largest_token: int
    """Among the tokens of those blocks; -1 for an empty shard."""


def list_shards(folder: Path) -> list[Shard]:
    """Return the whole shards directly in ``folder``, ordered by file name.

    Raises:
        MissingInputError: the folder does not exist, or holds no `.ds` file.
        InputError: one of its shards is not whole.
    """
    if not folder.is_dir():
        raise MissingInputError(
            f"{folder}: no such folder of shards; check dataset_folder, or make it with `zagreus tokenize`"
        )
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".ds"))
    if not names:
        nested = sorted({path.parent.name for path in folder.glob("*/*.ds")})
        advice = f"name its subfolders {', '.join(nested[:5])} instead" if nested else "tokenize into it first"
        raise MissingInputError(f"{folder}: holds no .ds file, expected at least one shard; {advice}")
    return map_all(read_shard, [folder / name for name in names])


def read_shard(path: Path) -> Shard:
    """Return the shard at ``path`` after checking that its three files agree.

    Raises:
        InputError: a file is missing, malformed, shorter or longer than the others say.
    """
    tokenizer, token_size, num_tokens = _read_metadata(path)
    num_bytes = path.stat().st_size
    if num_bytes != num_tokens * token_size:
        raise _not_whole(
            path, f"{num_bytes} bytes, but its metadata says {num_tokens} tokens x {token_size} bytes = "
            f"{num_tokens * token_size}"
        )  # fmt: skip
    num_documents, last_end = _read_last_end(path)
    if last_end != num_tokens:
        raise _not_whole(path, f"its index ends at token {last_end}, its metadata says {num_tokens} tokens")
    return Shard(path.parent, path.name, num_tokens, num_documents, token_size, tokenizer)


def summarize_shards(shards: list[Shard]) -> list[ShardSummary]:
    """Return the summaries of ``shards``, in order; reads at most 12 KiB of each."""
    return map_all(_summarize, shards)


def read_fully(descriptor: int, num_bytes: int, offset: int) -> bytes:
    """Return ``num_bytes`` from ``offset`` on, fewer only where the file ends; one read may give less than is there."""
    block = os.pread(descriptor, num_bytes, offset)
    while len(block) < num_bytes and (more := os.pread(descriptor, num_bytes - len(block), offset + len(block))):
        block += more
    return block


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Give the system's errors the file's name, which they leave out once it is open."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _summarize(shard: Shard) -> ShardSummary:
    digest = hashlib.blake2b(digest_size=8)
    identity = f"{shard.name}|{shard.num_tokens}|{shard.num_documents}|{shard.token_size}|{shard.tokenizer}"
    digest.update(identity.encode())
    num_bytes, largest = shard.num_tokens * shard.token_size, -1
    middle = (num_bytes // 2) // _SAMPLE_BYTES * _SAMPLE_BYTES
    descriptor = os.open(shard.path, os.O_RDONLY)
    try:
        for offset in sorted({0, middle, max(0, num_bytes - _SAMPLE_BYTES)}):
            with _named(shard.path):
                block = read_fully(descriptor, _SAMPLE_BYTES, offset)
            digest.update(block)
            tokens = np.frombuffer(block, dtype=shard.dtype, count=len(block) // shard.token_size)
            largest = max(largest, int(tokens.max())) if tokens.size else largest
    finally:
        os.close(descriptor)
    return ShardSummary(digest.hexdigest(), largest)


def _read_metadata(path: Path) -> tuple[str, int, int]:
    """Return the tokenizer's name, bytes per token and number of tokens."""
    try:
        content, _ = _read_end(f"{path}.metadata", _MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise _not_whole(path, f"{path.name}.metadata is missing") from None
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        raise _not_whole(path, f"{path.name}.metadata is not text") from None
    tokenizer, separator, token_size = lines[0].rpartition("|")
    if len(lines) < 2 or not separator or token_size not in ("2", "4") or not lines[1].isdigit():
        raise _not_whole(
            path,
            f"{path.name}.metadata starts with {lines[0][:60]!r}, expected `tokenizer|2` or `tokenizer|4` and the "
            "number of tokens",
        )
    return tokenizer, int(token_size), int(lines[1])


def _read_last_end(path: Path) -> tuple[int, int]:
    """Return the number of documents and where the last one ends, in tokens."""
    try:
        last, num_bytes = _read_end(f"{path}.index", INDEX_ENTRY_BYTES)
    except FileNotFoundError:
        raise _not_whole(path, f"{path.name}.index is missing") from None
    if num_bytes % INDEX_ENTRY_BYTES:
        raise _not_whole(path, f"{path.name}.index has {num_bytes} bytes, no multiple of {INDEX_ENTRY_BYTES}")
    return num_bytes // INDEX_ENTRY_BYTES, int.from_bytes(last, "little")


def _read_end(name: str, at_most: int) -> tuple[bytes, int]:
    """Return the last ``at_most`` bytes of a file and the bytes it has; a thousand shards are opened this way."""
    descriptor = os.open(name, os.O_RDONLY)
    try:
        num_bytes = os.fstat(descriptor).st_size
        with _named(name):
            return read_fully(descriptor, at_most, max(0, num_bytes - at_most)), num_bytes
    finally:
        os.close(descriptor)


def _not_whole(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: not a whole shard: {reason}; remove its files and tokenize its input again "
        "(`zagreus tokenize` redoes only what is missing)"
    )


def map_all(function, items):  # type: ignore[no-untyped-def]
    """Apply ``function`` to all items, by threads once the first ones show a slow (network) file system.

    On a local disk threads only wait for each other: a thousand shards open in 0.13 s of CPU without them, 0.34 with.
    """
    start = time.perf_counter()
    results = [function(item) for item in items[:_FIRST_ITEMS]]
    rest = items[_FIRST_ITEMS:]
    if time.perf_counter() - start < _SLOW_SECONDS * len(results):
        return results + [function(item) for item in rest]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return results + list(pool.map(function, rest))
