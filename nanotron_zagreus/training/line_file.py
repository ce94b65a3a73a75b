"""A file that grows by whole lines, and whose troubles end no run."""

from __future__ import annotations

import os
from pathlib import Path

from nanotron_zagreus.training.one_warning import OneWarning


class LineFile:
    """Appends lines; what the disk refuses is left out, with one warning."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; a last line that was cut off gets its end, so that the next one stands alone."""
        self._descriptor: int | None = None
        self._only_warning = OneWarning(path, "lines are left out")
        with self._only_warning:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")

    def append(self, line: str) -> None:
        """Write one line at once, or none of it."""
        if self._descriptor is None:
            return
        content = (line + "\n").encode()
        with self._only_warning:
            before = os.fstat(self._descriptor).st_size
            written = os.write(self._descriptor, content)
            if written < len(content):
                os.ftruncate(self._descriptor, before)
                raise OSError(f"{written} of {len(content)} bytes written")

    def close(self) -> None:
        """Close the file; a network file system may refuse only now what it has taken before."""
        if self._descriptor is not None:
            with self._only_warning:
                os.close(self._descriptor)
