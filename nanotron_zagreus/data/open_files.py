"""Keep a bounded number of files open, so that 10,000 shards fit any limit of the system."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from nanotron_zagreus.errors import WorkError

_MAX_OPEN_FILES = 128
_MOST_OPEN_FILES = 1 << 16
"""No limit is raised beyond: enough for 10,000 shards and their indices on a rank, and the rest of the process."""


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


class OpenFiles:
    """File descriptors for reading, by path; the one opened first is closed first. One per thread: it has no lock."""

    def __init__(self, max_open_files: int = _MAX_OPEN_FILES) -> None:
        self._max_open_files = max_open_files
        self._descriptors: dict[Path, int] = {}

    def __len__(self) -> int:
        return len(self._descriptors)

    def descriptor(self, path: Path) -> int:
        """Return the descriptor of ``path``, which stays good until another one is asked for.

        Raises:
            WorkError: the file is gone.
        """
        found = self._descriptors.get(path)
        return self._open(path) if found is None else found

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        if len(self._descriptors) >= self._max_open_files:
            os.close(self._descriptors.pop(next(iter(self._descriptors))))
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise WorkError(f"{path}: the file vanished while in use; restore it and resume") from error
        self._descriptors[path] = descriptor
        return descriptor
