"""A source: one folder of shards seen as numbered windows, some of them held out for validation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from nanotron_zagreus.data.completeness import missing_parts
from nanotron_zagreus.data.permutation import KeyedPermutation
from nanotron_zagreus.data.shard_survey import survey_shards
from nanotron_zagreus.data.shards import Shard
from nanotron_zagreus.data.tokenizer_identity import read_record
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True)
class Source:
    """The windows of one folder: numbered in the order of file names, not overlapping, never across shards."""

    folder: Path
    shards: tuple[Shard, ...]
    digests: dict[str, str]
    """Shard name -> digest of its identity and of samples of its content."""
    window_tokens: int
    """Tokens per window: sequence_length + 1."""
    num_windows: int
    """Windows to train on."""
    num_validation_windows: int
    """The last windows, never trained on."""
    seed: int
    """Chooses the order of the windows; of the first stage that draws from the source."""
    first_windows: np.ndarray = field(repr=False)
    """int64 [shards + 1]: number of the first window of each shard, then the number of windows."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the tokenizer's file that made the shards, where `zagreus tokenize` recorded it."""

    @property
    def num_tokens(self) -> int:
        """Tokens on disk."""
        return sum(shard.num_tokens for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a shard, the window size, or the held-out windows change; not when the folder moves."""
        text = f"{self.window_tokens}|{self.num_validation_windows}|{sorted(self.digests.items())}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def permutation(self, epoch: int) -> KeyedPermutation:
        """Return the order of the training windows in ``epoch``, counted from 0."""
        return KeyedPermutation(self.num_windows, f"{self.seed}|{self.fingerprint}|{epoch}")

    def locate(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard's index and the window within it for each window number, int64 [n] each."""
        shard = np.searchsorted(self.first_windows, windows, side="right") - 1
        return shard, windows - self.first_windows[shard]


def open_source(
    folder: Path, *, sequence_length: int, num_validation_windows: int, seed: int, vocab_size: int
) -> Source:
    """Return the source in ``folder``.

    Args:
        sequence_length: tokens per sample; a window holds one more, for the last label.
        num_validation_windows: windows held out at the end of the folder.
        seed: chooses the order of the windows.
        vocab_size: every token must be below it; checked on a sample here, on every window when it is read.

    Raises:
        MissingInputError: no such folder, or nothing in it.
        InputError: the folder is not complete, a shard is not whole, a token is out of range, or no window is left to
            train on.
    """
    survey = survey_shards(folder)
    shards, summaries = survey.shards, survey.summaries
    problems = missing_parts(folder, survey.names)
    if problems:
        raise InputError(problems[0])
    for shard in shards:
        if shard.token_size != shards[0].token_size or shard.tokenizer != shards[0].tokenizer:
            raise InputError(
                f"{shard.path}: made with {shard.tokenizer!r} ({shard.token_size} bytes a token), but "
                f"{shards[0].name} beside it with {shards[0].tokenizer!r} ({shards[0].token_size}); a folder "
                "holds shards of one tokenizer, move one kind out or tokenize it again"
            )
    for shard, summary in zip(shards, summaries, strict=True):
        if summary.largest_token >= vocab_size:
            raise InputError(
                f"{shard.path}: holds token {summary.largest_token}, the model's vocab_size is {vocab_size}; the "
                "shards were made with another tokenizer, or are damaged (`zagreus shards verify` reads every token)"
            )
    window_tokens = sequence_length + 1
    first_windows = np.cumsum([0] + [shard.num_tokens // window_tokens for shard in shards], dtype=np.int64)
    num_windows = int(first_windows[-1]) - num_validation_windows
    if num_windows < 1:
        raise InputError(
            f"{folder}: {int(first_windows[-1])} windows of sequence_length + 1 = {window_tokens} tokens, of which "
            f"{num_validation_windows} are held out: none is left to train on; add data or shorten the sequence"
        )
    return Source(
        folder=folder,
        shards=tuple(shards),
        digests={shard.name: summary.digest for shard, summary in zip(shards, summaries, strict=True)},
        window_tokens=window_tokens,
        num_windows=num_windows,
        num_validation_windows=num_validation_windows,
        seed=seed,
        first_windows=first_windows,
        tokenizer_sha256=(read_record(folder) or {}).get("tokenizer_sha256"),
    )
