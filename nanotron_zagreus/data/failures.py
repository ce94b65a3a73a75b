"""The list of what a task could not read and left out: one JSON line each, with file, row and reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from datatrove.utils.logging import logger

from nanotron_zagreus.data.attempts import attempt_mark, remove_abandoned

_MAX_REPORTED_PER_FILE = 1000


class FailureList:
    """The failures of one task. Use as a context manager: leaving it puts the list in its place."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Start the list of task ``rank`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.glob(f".{rank:05d}~*"))
        self.count = 0
        self._of_file: Counter[str] = Counter()
        self._final = folder / f"{rank:05d}.jsonl"
        self._aside = folder / f".{rank:05d}{attempt_mark()}"
        self._out = self._aside.open("w", encoding="utf-8")

    def report(self, file: str, row: int | None, reason: str) -> None:
        """Add one; of each file the first 1000 are listed, all are counted."""
        self.count += 1
        self._of_file[file] += 1
        if self._of_file[file] <= _MAX_REPORTED_PER_FILE:
            print(json.dumps({"file": file, "row": row, "error": reason}), file=self._out, flush=True)
            logger.warning(f"{file}, row {row}: {reason}")

    def __enter__(self) -> FailureList:
        return self

    def __exit__(self, *exception: object) -> None:
        self._out.close()
        self._aside.replace(self._final)
