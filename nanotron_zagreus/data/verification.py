"""Read every byte of shards: tokens within the vocabulary, documents in order, one tokenizer; and sum folders up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanotron_zagreus.data.completeness import changed_shards, missing_parts, num_left_out
from nanotron_zagreus.data.shards import INDEX_ENTRY_BYTES, Shard, list_shards, read_shard
from nanotron_zagreus.data.tokenizer_identity import read_record
from nanotron_zagreus.errors import InputError, MissingInputError

_BLOCK_TOKENS = 1 << 20
_REDO = "remove its files, and run its `zagreus tokenize` again"
"""A rerun does what is missing: it would leave a shard of the right size as it is."""


@dataclass(frozen=True)
class ShardReport:
    """What reading a whole shard showed."""

    path: str
    problem: str | None
    """What is wrong with it; None: nothing."""
    num_tokens: int = 0
    num_documents: int = 0
    largest_token: int = -1
    vocab_size: int | None = None
    """What the tokens were held against; None: nothing says how large the vocabulary is."""


@dataclass(frozen=True)
class SourceStatistics:
    """One folder of shards, summed up."""

    folder: str
    num_shards: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    tokenizer: str
    token_size: int
    problems: tuple[str, ...]
    """What the folder lacks to be a whole tokenization."""

    @property
    def tokens_per_document(self) -> float:
        """Mean length of a document in tokens."""
        return self.num_tokens / max(1, self.num_documents)


def shard_paths(path: Path) -> list[Path]:
    """Return the `.ds` files that ``path`` means: itself, or those of a folder, searched to any depth.

    Raises:
        MissingInputError: there is none.
    """
    if path.suffix == ".ds" and path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*.ds") if not p.parent.name.startswith(".")) if path.is_dir() else []
    if not found:
        raise MissingInputError(f"{path}: no .ds file there; give a shard, or a folder of shards")
    return found


def incomplete_folders(paths: Sequence[Path]) -> list[str]:
    """Return a sentence for everything that tokenizations at or below the folders ``paths`` lack, or have too much."""
    folders = {found.parent for path in paths if path.is_dir() for found in path.rglob("*.ds*") if found.is_file()}
    folders |= {plan.parent.parent for path in paths if path.is_dir() for plan in path.rglob("logs/plan.json")}
    problems = []
    for folder in sorted(folder for folder in folders if not folder.name.startswith(".")):
        problems += missing_parts(folder, {entry.name for entry in os.scandir(folder)})
        problems += changed_shards(folder)
    return problems


def left_out(paths: Sequence[Path]) -> list[str]:
    """Return a sentence for every tokenization at or below the folders ``paths`` that could not read all its input."""
    lists = sorted({found for path in paths if path.is_dir() for found in path.rglob("logs/failures")})
    counts = {path: num_left_out(path.parent.parent) for path in lists}
    return [
        f"{path.parent.parent}: {count:,} documents or files were left out, {path} lists them"
        for path, count in counts.items()
        if count
    ]


def verify_shard(path: Path, vocab_size: int | None = None) -> ShardReport:
    """Return what reading all of the shard at ``path`` shows, in memory that does not depend on its size.

    Args:
        path: the `.ds` file.
        vocab_size: tokens must be below it; None: the size that the folder's tokenization record names.
    """
    try:
        shard = read_shard(path)
        record = read_record(path.parent) or {}
    except (InputError, OSError) as error:
        return ShardReport(str(path), str(error))
    vocab_size = vocab_size or record.get("vocab_size")
    try:
        largest = _largest_token(shard)
        problem = (
            _tokenizer_problem(shard, record) or _index_problem(shard) or _range_problem(shard, largest, vocab_size)
        )
    except OSError as error:
        return ShardReport(str(path), f"{path}: cannot be read: {error}")
    return ShardReport(str(path), problem, shard.num_tokens, shard.num_documents, largest, vocab_size)


def mixed_tokenizers(paths: Sequence[Path]) -> list[str]:
    """Return a sentence for every folder whose shards were made with different tokenizers."""
    found: dict[Path, set[tuple[str, int]]] = {}
    for path in paths:
        try:
            shard = read_shard(path)
        except (InputError, OSError):
            continue  # reported by `verify_shard`
        found.setdefault(path.parent, set()).add((shard.tokenizer, shard.token_size))
    return [
        f"{folder}: its shards were made with different tokenizers: "
        f"{', '.join(f'{name} ({size} bytes a token)' for name, size in sorted(identities))}; separate them"
        for folder, identities in sorted(found.items())
        if len(identities) > 1
    ]


def source_statistics(folder: Path) -> SourceStatistics:
    """Sum up the shards directly in ``folder``.

    Raises:
        InputError: a shard is not whole, or two were made with different tokenizers.
    """
    mixed = mixed_tokenizers(sorted(folder.glob("*.ds")))
    if mixed:
        raise InputError(mixed[0])
    shards = list_shards(folder)
    return SourceStatistics(
        folder=str(folder),
        num_shards=len(shards),
        num_documents=sum(shard.num_documents for shard in shards),
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_bytes=sum(shard.num_tokens * shard.token_size for shard in shards),
        tokenizer=shards[0].tokenizer,
        token_size=shards[0].token_size,
        problems=tuple(missing_parts(folder, {entry.name for entry in os.scandir(folder)})),
    )


def random_window(path: Path, num_tokens: int, seed: int | None) -> tuple[Shard, int, np.ndarray]:
    """Return (shard, place of the first token, tokens) of a window drawn evenly over all tokens below ``path``."""
    shards = [read_shard(p) for p in shard_paths(path)]
    sizes = np.array([shard.num_tokens for shard in shards], dtype=np.float64)
    if not sizes.sum():
        raise InputError(f"{path}: its shards hold no token; tokenize something into it")
    rng = np.random.default_rng(seed)
    shard = shards[int(rng.choice(len(shards), p=sizes / sizes.sum()))]
    first = int(rng.integers(0, max(1, shard.num_tokens - num_tokens + 1)))
    with shard.path.open("rb") as file:
        file.seek(first * shard.token_size)
        raw = file.read(min(num_tokens, shard.num_tokens - first) * shard.token_size)
    return shard, first, np.frombuffer(raw, dtype=shard.dtype)


def _largest_token(shard: Shard) -> int:
    largest = -1
    with shard.path.open("rb") as file:
        while block := file.read(_BLOCK_TOKENS * shard.token_size):
            largest = max(largest, int(np.frombuffer(block, dtype=shard.dtype).max()))
    return largest


def _tokenizer_problem(shard: Shard, record: dict[str, object]) -> str | None:
    if not record or record["tokenizer"] == shard.tokenizer:
        return None
    return (
        f"{shard.path}: made with {shard.tokenizer!r}, the folder's record says {record['tokenizer']!r}; move it out, "
        "or tokenize its input again"
    )


def _index_problem(shard: Shard) -> str | None:
    """Return what is wrong with the documents' ends: they never fall."""
    previous = 0
    with shard.index_path.open("rb") as file:
        while block := file.read(_BLOCK_TOKENS * INDEX_ENTRY_BYTES):
            ends = np.frombuffer(block, dtype="<u8")
            if ends[0] < previous or (ends[1:] < ends[:-1]).any():
                return f"{shard.index_path}: document ends go backwards; {_REDO}"
            previous = int(ends[-1])
    return None


def _range_problem(shard: Shard, largest: int, vocab_size: int | None) -> str | None:
    if vocab_size is None or largest < vocab_size:
        return None
    place = 0
    with shard.path.open("rb") as file:
        while block := file.read(_BLOCK_TOKENS * shard.token_size):
            tokens = np.frombuffer(block, dtype=shard.dtype)
            wrong = np.flatnonzero(tokens >= vocab_size)
            if wrong.size:
                token, place = int(tokens[wrong[0]]), place + int(wrong[0])
                break
            place += tokens.size
    return f"{shard.path}: token {token} at place {place:,} is outside the vocabulary of {vocab_size:,}; {_REDO}"
