"""How long steps take on the device that runs them, whatever the host does meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch


class StepTimes:
    """The times of some steps in a row.

    A GPU works behind the host, and the host's clock cannot tell a step from the one that was launched before it. There
    a step lies between two events in the device's own queue: it begins when the device is done with the step before and
    the host has begun to launch this one, and ends with its last kernel. What the host does between steps (saving,
    validation, agreeing with other ranks) counts for none, unless the device still works.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[tuple[Any, Any]] = []
        self._seconds = 0.0
        self._num_steps = 0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Take what is launched inside for one step; waits for nothing."""
        start = self._mark()
        yield
        self._marks.append((start, self._mark()))

    def settle(self) -> None:
        """Add up what was marked, so that many steps take no memory; waits until the device has come to the last."""
        marks, self._marks = self._marks, []
        if marks and self._is_cuda:
            marks[-1][1].synchronize()
        self._num_steps += len(marks)
        self._seconds += sum(self._seconds_between(start, end) for start, end in marks)

    def mean_seconds(self) -> float:
        """Return the seconds that a step took; waits as :meth:`settle` does."""
        self.settle()
        return self._seconds / self._num_steps

    def _mark(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds_between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1000 if self._is_cuda else float(end - start)
