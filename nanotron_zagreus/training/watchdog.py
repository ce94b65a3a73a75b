"""End a job that stands still, and say which rank it waits for.

Every rank notes its own progress: the places its main thread comes to, and a beat for each piece of a long work,
such as a chunk of a file that is written in the background. When it has made none for the timeout, and no other rank
has either, its watchdog says where everyone stands and ends the process; torchrun then ends the rest. A collective's
own timeout comes later and names nobody.

The decision needs nothing but this process. What is known of other ranks comes through the rendezvous store, from a
thread of its own: a store whose host stands still, or is gone, delays nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HANG_EXIT_CODE = 1
_SILENT_PERIODS = 4
_NAMED_RANKS = 8


@dataclass
class _Heard:
    """What this rank knows of another, with the times at which it learned it, by its own clock."""

    place: str
    beats: int
    moved_at: float
    published: int
    heard_at: float


class Watchdog:
    """Watches one rank's progress; use as a context around the steps."""

    def __init__(
        self,
        *,
        store: Any,
        rank: int,
        world_size: int,
        timeout_seconds: float,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        """Prepare.

        Args:
            store: a torch.distributed store that all ranks share.
            rank: this rank.
            world_size: number of ranks.
            timeout_seconds: longest time without progress; 0 switches the watchdog off.
            leave: ends the process with an exit code.
        """
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._timeout = timeout_seconds
        self._period = max(0.1, min(5.0, timeout_seconds / 10))
        self._leave = leave
        self._place, self._beats, self._moved_at = "starting", 0, time.monotonic()
        self._published = 0
        self._others: dict[int, _Heard] = {}
        self._store_answered_at = time.monotonic()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def at(self, place: str) -> None:
        """Record progress: the main thread has come to ``place``."""
        self._place = place
        self.beat()

    def beat(self) -> None:
        """Record progress of any thread."""
        self._beats += 1
        self._moved_at = time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._timeout > 0:
            self._moved_at = self._store_answered_at = time.monotonic()
            for name, work in (("zagreus-watchdog", self._watch), ("zagreus-watchdog-store", self._keep_in_touch)):
                self._threads.append(threading.Thread(target=work, name=name, daemon=True))
                self._threads[-1].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=1.0)  # the store may never answer

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            if self._job_stands():
                print(self._report(), file=sys.stderr, flush=True)
                self._leave(HANG_EXIT_CODE)
                return

    def _job_stands(self) -> bool:
        """Tell whether neither this rank nor any that it hears has moved for the timeout."""
        moved_at = max([self._moved_at, *(heard.moved_at for heard in list(self._others.values()))])
        return time.monotonic() - moved_at > self._timeout

    def _keep_in_touch(self) -> None:
        """Publish this rank's progress; once it stands still, ask for the others'."""
        store = None
        while not self._stop.is_set():
            # Gone, or broken off: asked again, and the watch goes on without it.
            with contextlib.suppress(Exception):
                store = store or self._store.clone()  # a wait in it must not delay those who use the original
                self._publish(store)
                if time.monotonic() - self._moved_at > self._period:
                    for other in range(self._world_size):
                        if other != self._rank and store.check([self._key(other)]):
                            self._hear(other, json.loads(store.get(self._key(other))))
                self._store_answered_at = time.monotonic()
            self._stop.wait(self._period)

    def _publish(self, store: Any) -> None:
        self._published += 1
        beat = {"place": self._place, "beats": self._beats, "published": self._published}
        store.set(self._key(self._rank), json.dumps(beat))

    def _hear(self, other: int, beat: dict[str, Any]) -> None:
        """Note what a rank says; its clock may differ, so that only changes count, at the time they are seen.

        What it did before it was first heard is taken for as old as this rank's own standstill.
        """
        now, before = time.monotonic(), self._others.get(other)
        moved_at = self._moved_at if before is None else now if before.beats != beat["beats"] else before.moved_at
        is_news = before is None or before.published != beat["published"]
        heard_at = now if before is None or is_news else before.heard_at
        self._others[other] = _Heard(beat["place"], beat["beats"], moved_at, beat["published"], heard_at)

    def _report(self) -> str:
        idle = time.monotonic() - self._moved_at
        return (
            f"zagreus: rank {self._rank}: no progress for {idle:.0f} s (zagreus.guards.hang_timeout_seconds is "
            f"{self._timeout:g}) at {self._place}. {self._describe_others()}"
        )

    def _describe_others(self) -> str:
        """Describe the ranks that fell silent; without any, those that stand elsewhere."""
        now, silent, elsewhere = time.monotonic(), [], []
        unanswered = now - self._store_answered_at
        is_cut_off = unanswered > _SILENT_PERIODS * self._period
        if is_cut_off:
            silent.append(
                f"the rendezvous store has not answered for {unanswered:.0f} s: node 0 stands still or is gone"
            )
        for other in range(self._world_size):
            heard = self._others.get(other)
            if other == self._rank:
                continue
            if heard is None:
                if not is_cut_off:  # where the store does not answer, nobody was asked
                    silent.append(f"rank {other} never reported")
            elif now - heard.heard_at > _SILENT_PERIODS * self._period:
                silent.append(f"rank {other} was last heard of {now - heard.heard_at:.0f} s ago at {heard.place}")
            elif heard.place != self._place:
                elsewhere.append(f"rank {other} is at {heard.place}")
        found = silent or elsewhere
        more = f"; and {len(found) - _NAMED_RANKS} more" if len(found) > _NAMED_RANKS else ""
        return "; ".join(found[:_NAMED_RANKS]) + more or "All ranks are at the same place"

    def _key(self, rank: int) -> str:
        return f"zagreus/watchdog/{rank}"
