"""Signals to `zagreus train`: the first asks the run to save and stop, a later one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from nanotron_zagreus.checkpoints.layout import STOP_FILE, replace_durably
from nanotron_zagreus.training.signals import LAUNCHER_REASONS, SECOND_SIGNAL_SECONDS, STOP_SIGNALS


class StopRequests:
    """Turns signals to the launcher into the STOP file that the ranks look for; use as a context around the run.

    torchrun is never signalled: it would kill its ranks after 30 s, whether or not they have saved.
    """

    def __init__(self, root: Path) -> None:
        """Prepare.

        Args:
            root: the checkpoints folder; the ranks make it.
        """
        self._file = root / STOP_FILE
        self._first_at: float | None = None
        self._reason = ""
        self._previous_handlers: dict[int, Any] = {}
        self.must_end_now = False
        """Whether a signal has come long enough after the first to mean more than it."""

    def __enter__(self) -> StopRequests:
        for number in STOP_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._first_at is not None:
            with contextlib.suppress(OSError):  # on a disk that became read-only; the next run removes it
                self._file.unlink(missing_ok=True)  # asked once more than the ranks have looked

    def pass_on(self) -> None:
        """Ask the ranks to stop if a signal has come; call it again and again: a starting run clears old requests."""
        if self._first_at is None:
            return
        with contextlib.suppress(OSError):  # a full disk may still take an empty file
            if not self._file.parent.is_dir():
                return
            if not self._file.exists():
                replace_durably(self._file, self._reason.encode())
        with contextlib.suppress(OSError):  # asked again in a moment; a second signal needs no file
            self._file.touch()

    def _take(self, number: int, frame: FrameType | None) -> None:
        now, name = time.monotonic(), signal.Signals(number).name
        if self._first_at is None:
            self._first_at, self._reason = now, LAUNCHER_REASONS[number]
            text = f"{name}: the run saves and stops after this step; another signal would end it without saving"
        elif now - self._first_at > SECOND_SIGNAL_SECONDS and not self.must_end_now:
            self.must_end_now = True
            text = f"second signal ({name}): ending without saving"
        else:
            return
        print(f"zagreus: {text}", file=sys.stderr, flush=True)
