"""Write one shard in datatrove's format so that it appears whole or not at all.

The three files grow in a folder that no reader looks into, under names of this attempt alone, and are renamed
when they are complete and on disk, the `.ds` file last: where there is a `.ds` file, its index and metadata are
there too. A different shard that stands in the place loses its metadata first and the new one gets its own last, so
that a reader between two renames finds a shard that is not whole, never a mixture of two.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import humanize
import numpy as np

from nanotron_zagreus.checkpoints.layout import sync_folder
from nanotron_zagreus.data.attempts import attempt_mark, remove_abandoned
from nanotron_zagreus.errors import WorkError

PARTIAL_FOLDER = ".partial"


def shard_name(rank: int) -> str:
    """Return datatrove's name for the shard of task ``rank``, not shuffled."""
    return f"{rank:05d}_unshuffled.ds"


class ShardFile:
    """A shard being written. Use as a context manager: leaving it in an error removes what was written."""

    def __init__(self, folder: Path, name: str, *, tokenizer: str, token_size: int) -> None:
        """Start the shard ``folder/name`` (name ends with `.ds`), and remove what dead attempts at it left.

        Args:
            tokenizer: the name written into the metadata.
            token_size: bytes per token, 2 or 4.
        """
        self._folder = folder
        self._name = name
        self._tokenizer = tokenizer
        self._dtype = np.dtype("<u2" if token_size == 2 else "<u4")
        self.num_tokens = 0
        self.num_documents = 0
        self._aside = folder / PARTIAL_FOLDER
        self._stem = name.removesuffix(".ds") + attempt_mark() + ".ds"
        self._index_digest = hashlib.blake2b()
        self._aside.mkdir(parents=True, exist_ok=True)
        stem = name.removesuffix(".ds")
        remove_abandoned([*self._aside.glob(f"{stem}~*"), *self._aside.glob(f"{stem}.ds*")])
        self._tokens = self._part("").open("wb")
        self._index = self._part(".index").open("wb")

    def write(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents.

        Args:
            tokens: unsigned [tokens], all documents one after the other.
            lengths: int64 [documents], tokens of each.
        """
        ends = np.cumsum(lengths) + self.num_tokens
        self._tokens.write(tokens.astype(self._dtype, copy=False).data)
        entries = ends.astype("<u8").data
        self._index.write(entries)
        self._index_digest.update(entries)
        self.num_tokens += int(tokens.size)
        self.num_documents += len(lengths)

    def finish(self) -> None:
        """Make the shard appear. A shard without documents leaves no file.

        Raises:
            WorkError: another attempt at this task published a different shard at the same moment.
        """
        if self.num_documents == 0:
            self.discard()
            for suffix in ("", ".index", ".metadata"):
                self._final(suffix).unlink(missing_ok=True)
            return
        metadata = f"{self._tokenizer}|{self._dtype.itemsize}\n{self.num_tokens}\n"
        metadata += humanize.metric(self.num_tokens, unit="T")
        with self._part(".metadata").open("wb") as file:
            file.write(metadata.encode())
            _sync(file)
        for file in (self._tokens, self._index):
            _sync(file)
            file.close()
        if self._stands(metadata):
            self._part("").replace(self._final(""))
            self.discard()
        else:
            self._publish(metadata)
        sync_folder(self._folder)

    def discard(self) -> None:
        """Remove everything written so far, also where the disk is too full to write out what is in memory."""
        for suffix in ("", ".index", ".metadata"):
            self._part(suffix).unlink(missing_ok=True)
        for file in (self._tokens, self._index):
            with contextlib.suppress(OSError):
                file.close()

    def _publish(self, metadata: str) -> None:
        is_new = not self._final("").exists()
        if not is_new:
            self._final(".metadata").unlink(missing_ok=True)
        for suffix in (".index", ".metadata", "") if is_new else (".index", "", ".metadata"):
            self._part(suffix).replace(self._final(suffix))
        if not self._stands(metadata):
            self._final(".metadata").unlink(missing_ok=True)  # what stands there must not be read
            raise WorkError(
                f"{self._final('')}: another attempt at this task wrote a different shard at the same moment; let only "
                "one run, and run the same command again"
            )

    def _stands(self, metadata: str) -> bool:
        """Return whether the shard in the place has the index and the metadata of this one."""
        try:
            with self._final(".index").open("rb") as index:
                same_index = hashlib.file_digest(index, "blake2b").digest() == self._index_digest.digest()
            return (
                same_index and self._final("").is_file() and self._final(".metadata").read_bytes() == metadata.encode()
            )
        except FileNotFoundError:
            return False

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self.discard()

    def _part(self, suffix: str) -> Path:
        return self._aside / (self._stem + suffix)

    def _final(self, suffix: str) -> Path:
        return self._folder / (self._name + suffix)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
