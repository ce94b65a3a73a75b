"""Write one shard in datatrove's format so that it appears whole or not at all.

The three files grow in a folder that no reader looks into and are renamed when they are complete and on
disk, the `.ds` file last: where there is a `.ds` file, its index and metadata are there too.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import humanize
import numpy as np

PARTIAL_FOLDER = ".partial"


def shard_name(rank: int) -> str:
    """Return datatrove's name for the shard of task ``rank``, not shuffled."""
    return f"{rank:05d}_unshuffled.ds"


class ShardFile:
    """A shard being written. Use as a context manager: leaving it in an error removes what was written."""

    def __init__(self, folder: Path, name: str, *, tokenizer: str, token_size: int) -> None:
        """Start the shard ``folder/name`` (name ends with `.ds`), replacing leftovers of an attempt before.

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
        self._aside.mkdir(parents=True, exist_ok=True)
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
        self._index.write(ends.astype("<u8").data)
        self.num_tokens += int(tokens.size)
        self.num_documents += len(lengths)

    def finish(self) -> None:
        """Make the shard appear. A shard without documents leaves no file."""
        metadata = f"{self._tokenizer}|{self._dtype.itemsize}\n{self.num_tokens}\n"
        self._part(".metadata").write_text(metadata + humanize.metric(self.num_tokens, unit="T"), encoding="utf-8")
        for file in (self._tokens, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        target = self._folder / self._name
        target.unlink(missing_ok=True)
        if self.num_documents == 0:
            self.discard()
            return
        for suffix in (".index", ".metadata", ""):
            self._part(suffix).replace(target.with_name(self._name + suffix))
        _sync_folder(self._folder)

    def discard(self) -> None:
        """Remove everything written so far."""
        self._tokens.close()
        self._index.close()
        for suffix in ("", ".index", ".metadata"):
            self._part(suffix).unlink(missing_ok=True)

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()

    def _part(self, suffix: str) -> Path:
        return self._aside / (self._name + suffix)


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot sync a folder; their renames are durable or nothing is
        pass
    finally:
        os.close(descriptor)
