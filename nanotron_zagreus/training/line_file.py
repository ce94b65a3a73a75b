"""A file that grows by whole lines, and whose troubles end no run."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class LineFile:
    """Appends lines; what the disk refuses is left out, with one warning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._has_warned = False

    def append(self, line: str) -> None:
        """Write one line at once, or none of it."""
        content = (line + "\n").encode()
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, content)
            if written < len(content):
                os.ftruncate(self._descriptor, before)
                raise OSError(f"{written} of {len(content)} bytes written")
        except OSError as error:
            if not self._has_warned:
                print(f"zagreus: {self._path}: lines are left out ({error}); training goes on", file=sys.stderr)
            self._has_warned = True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
