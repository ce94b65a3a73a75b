"""Let what a file system refuses for a while be told once and end no run."""

from __future__ import annotations

import sys
from pathlib import Path


class OneWarning:
    """A context, to be entered as often as needed, in which an OSError ends the block alone; the first one is told."""

    def __init__(self, path: Path, consequence: str) -> None:
        """Prepare.

        Args:
            path: the file or folder in question.
            consequence: what does not happen then, as a sentence about the path.
        """
        self._path, self._consequence = path, consequence
        self._has_warned = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if not isinstance(error, OSError):
            return False
        if not self._has_warned:
            print(f"zagreus: {self._path}: {self._consequence} ({error}); training goes on", file=sys.stderr)
        self._has_warned = True
        return True
