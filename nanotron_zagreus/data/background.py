"""Run an iterator in a thread of its own, a bounded number of items ahead of whoever takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

_POLL_SECONDS = 0.05
_CLOSE_SECONDS = 10.0
"""For what is being read; a read from a share that has gone away may never return, and the process ends without it."""

Item = TypeVar("Item")


class BackgroundIterator(Generic[Item]):
    """Iterate to take the items in order; an error of the iterator comes where its item would have.

    Two queues without locks of Python's: items one way, places for items the other.
    """

    def __init__(self, items: Iterator[Item], capacity: int, name: str) -> None:
        """Start the thread.

        Args:
            items: run by the thread alone, and closed by it.
            capacity: items that wait at most, besides the one in work.
            name: of the thread.
        """
        self._items = items
        self._ready: queue.SimpleQueue[tuple[Item] | BaseException | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(capacity):
            self._places.put(None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while not self._stop.is_set():
            try:
                item = self._ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is None or isinstance(item, BaseException):
                self._ready.put(item)  # it ends every iteration to come, too
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            self._places.put(None)
            yield item[0]

    def __len__(self) -> int:
        return self._ready.qsize()

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._stop.is_set()

    def close(self) -> None:
        """End the thread and wait for it, but not for ever."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for item in self._items:
                if not self._wait_for_place():
                    break
                self._ready.put((item,))
        except BaseException as error:  # also what is no Exception must reach the consumer, or it would wait forever
            end = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self._ready.put(end)

    def _wait_for_place(self) -> bool:
        """Return whether there is a place; False: told to stop."""
        while not self._stop.is_set():
            try:
                self._places.get(timeout=_POLL_SECONDS)
                return True
            except queue.Empty:
                continue
        return False
