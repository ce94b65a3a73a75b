"""Keep a bounded number of a mixture's files open, so that 10,000 shards fit any limit of the system."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from nanotron_zagreus.data.shards import Shard
from nanotron_zagreus.errors import WorkError

_MAX_OPEN_FILES = 128
_MOST_OPEN_FILES = 1 << 16
"""No limit is raised beyond: enough for 10,000 shards and their indices on a rank, and the rest of the process."""
_CLOSED = -1


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


def unreadable(path: Path, error: OSError) -> WorkError:
    """Return what to raise where the system refuses ``path``: of a file that is open, its own error names none."""
    return WorkError(
        f"{path}: cannot be read ({error.strerror}); see to its disk or mount, and resume from the last checkpoint"
    )


class OpenShards:
    """Descriptors of shards' files, by the shards' numbers; the file opened first is closed first.

    One per thread: it has no lock. A descriptor stays good until another one is asked for.
    """

    def __init__(self, shards: Sequence[Shard], max_open_files: int = _MAX_OPEN_FILES) -> None:
        self.shards = shards
        self._max_open_files = max_open_files
        self._tokens = [_CLOSED] * len(shards)
        self._indices = [_CLOSED] * len(shards)
        self._opened: deque[tuple[list[int], int]] = deque()

    def __len__(self) -> int:
        return len(self._opened)

    def tokens(self, number: int) -> int:
        """Return the descriptor of a shard's tokens.

        Raises:
            WorkError: the file is gone, or cannot be opened.
        """
        descriptor = self._tokens[number]
        return self._open(self._tokens, number, self.shards[number].path) if descriptor == _CLOSED else descriptor

    def index(self, number: int) -> int:
        """Return the descriptor of a shard's index; raises as :meth:`tokens` does."""
        descriptor = self._indices[number]
        return (
            self._open(self._indices, number, self.shards[number].index_path) if descriptor == _CLOSED else descriptor
        )

    def close(self) -> None:
        """Close every file."""
        while self._opened:
            self._close_first()

    def __del__(self) -> None:
        self.close()

    def _open(self, descriptors: list[int], number: int, path: Path) -> int:
        if len(self._opened) >= self._max_open_files:
            self._close_first()
        try:
            descriptors[number] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise WorkError(f"{path}: the file vanished while in use; restore it and resume") from error
        except OSError as error:
            raise unreadable(path, error) from error
        self._opened.append((descriptors, number))
        return descriptors[number]

    def _close_first(self) -> None:
        descriptors, number = self._opened.popleft()
        os.close(descriptors[number])
        descriptors[number] = _CLOSED
