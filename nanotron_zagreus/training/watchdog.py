"""End a job that stands still, and say which rank it waits for.

Every rank's watchdog thread publishes where its main thread is in the rendezvous store, and looks at its own
progress. When nothing was finished for the timeout, it reads the others' places, prints the rank that is
behind or silent, and ends its process; torchrun then ends the rest. A collective's own timeout would come
later and name nobody.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

HANG_EXIT_CODE = 1


class Watchdog:
    """Watches one rank's progress; use as a context around the steps."""

    def __init__(self, *, store: Any, rank: int, world_size: int, timeout_seconds: float) -> None:
        """Prepare.

        Args:
            store: a torch.distributed store that all ranks share.
            rank: this rank.
            world_size: number of ranks.
            timeout_seconds: longest time without progress; 0 switches the watchdog off.
        """
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._timeout = timeout_seconds
        self._period = max(0.1, min(5.0, timeout_seconds / 10))
        self._place = "starting"
        self._moved_at = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, place: str) -> None:
        """Record progress: the main thread has come to ``place``."""
        self._place, self._moved_at = place, time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._timeout > 0:
            self._moved_at = time.monotonic()
            self._thread = threading.Thread(target=self._watch, name="zagreus-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        self._publish(0.0)
        while not self._stop.wait(self._period):
            idle = time.monotonic() - self._moved_at
            self._publish(idle)
            if idle > self._timeout:
                self._report(idle)
                sys.stderr.flush()
                os._exit(HANG_EXIT_CODE)

    def _publish(self, idle: float) -> None:
        beat = {"place": self._place, "idle_seconds": round(idle, 1), "published": time.time()}
        self._store.set(self._key(self._rank), json.dumps(beat))

    def _report(self, idle: float) -> None:
        print(
            f"zagreus: rank {self._rank}: no progress for {idle:.0f} s (zagreus.guards.hang_timeout_seconds is "
            f"{self._timeout:g}) at {self._place}. {self._others()}",
            file=sys.stderr,
        )

    def _others(self) -> str:
        """Describe the ranks that fell silent; without any, those that stand elsewhere."""
        silent, elsewhere = [], []
        for other in range(self._world_size):
            if other == self._rank:
                continue
            if not self._store.check([self._key(other)]):
                silent.append(f"rank {other} never reported")
                continue
            beat = json.loads(self._store.get(self._key(other)))
            age = time.time() - beat["published"]
            if age > 4 * self._period:
                silent.append(f"rank {other} was last heard of {age:.0f} s ago at {beat['place']}")
            elif beat["place"] != self._place:
                elsewhere.append(f"rank {other} is at {beat['place']}")
        return "; ".join(silent or elsewhere) or "All ranks are at the same place"

    def _key(self, rank: int) -> str:
        return f"zagreus/watchdog/{rank}"
