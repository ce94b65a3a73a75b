"""Signals as requests to stop: the first asks for a save, a later one ends the process at once.

Python runs a signal handler between two instructions of the main thread, so a rank that waits in a collective for
a rank that never comes would not hear anything. What arrives is therefore read by a thread, from the descriptor
that Python's C-level handler writes to wherever the main thread is (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

from nanotron_zagreus.errors import EXIT_INTERRUPTED

SECOND_SIGNAL_SECONDS = 3.0
"""A signal this long after the first aborts at once. Sooner is the same request again: torchrun forwards what the
terminal has already sent to the whole process group."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What asks for a stop."""

_RANK_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
"""What asks a rank: torchrun, whose terminal has closed, passes that on, and kills its ranks half a minute later. It
does so under nohup, too, whose wish only a process without torchrun finds: there SIGHUP is ignored, and stays so."""

LAUNCHER_REASONS = {int(number): f"{number.name} to zagreus train" for number in STOP_SIGNALS}
"""What the launcher writes into the STOP file, by the signal it got: the ranks get none, and give it as the reason."""


class SignalRequests:
    """Turns SIGTERM, SIGINT, SIGUSR1 and SIGHUP into a stop request while the context is open; for the main thread."""

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the first signal."""
        self._first_at = 0.0
        self._previous_handlers: dict[int, Any] = {}
        self._previous_descriptor = -1

    def __enter__(self) -> SignalRequests:
        self._ours, self._pythons = socket.socketpair()
        self._pythons.setblocking(False)  # set_wakeup_fd demands it
        self._listener = threading.Thread(target=self._listen, name="zagreus-signals", daemon=True)
        self._listener.start()
        self._previous_descriptor = signal.set_wakeup_fd(self._pythons.fileno(), warn_on_full_buffer=False)
        for number in _RANK_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous_handlers[number] = signal.signal(number, _leave_it_to_the_listener)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._pythons.close()
        self._listener.join()
        self._ours.close()

    def _listen(self) -> None:
        while numbers := self._ours.recv(64):  # empty once the other end is closed
            for number in numbers:
                if number in _RANK_SIGNALS:
                    self._take(number)

    def _take(self, number: int) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._first_at = signal.Signals(number).name, now
        elif now - self._first_at > SECOND_SIGNAL_SECONDS:
            print(f"zagreus: second signal ({signal.Signals(number).name}), leaving without saving", file=sys.stderr)
            os._exit(EXIT_INTERRUPTED)


def _leave_it_to_the_listener(number: int, frame: FrameType | None) -> None:
    """Replace the signal's default action, which would end the process."""
