"""A step's time is the device's: neither a host that runs ahead of it nor one that is slower than it changes that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanotron_zagreus.training import step_times
from nanotron_zagreus.training.step_times import StepTimes


class Gpu:
    """A host and a device behind it, with clocks in seconds."""

    def __init__(self) -> None:
        self.host = self.device = 0.0

    def launch(self, *, host: float, device: float) -> None:
        """Queue a step: the host needs so long to launch it, the device so long to run it."""
        begin = max(self.host, self.device)
        self.host += host
        self.device = max(begin + device, self.host)

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        return Event(self)


class Event:
    """Stands for torch's: it happens when the device comes to it."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.at = gpu, 0.0

    def record(self) -> None:
        self.at = self._gpu.device = max(self._gpu.host, self._gpu.device)

    def synchronize(self) -> None:
        self._gpu.host = max(self._gpu.host, self.at)

    def elapsed_time(self, end: Event) -> float:
        assert end.at <= self._gpu.host, "asked before the device was there"
        return 1000 * (end.at - self.at)


@pytest.mark.parametrize(("host", "device"), [(0.1, 1.0), (1.0, 0.1), (1.0, 1.0)])
def test_every_step_has_its_own_time_also_before_and_after_a_save(
    host: float, device: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    unread: list[StepTimes] = []
    seconds = []
    for step in range(1, 9):
        times = StepTimes(torch.device("cuda"))
        with times.step():
            gpu.launch(host=host, device=device)
        unread.append(times)
        if step > 1:  # read one step late, as figures are
            seconds += [unread.pop(0).mean_seconds() for _ in unread[:-1]]
        if step == 4:
            seconds += [unread.pop(0).mean_seconds() for _ in list(unread)]
            gpu.host += 100.0  # a save
    seconds.append(unread.pop().mean_seconds())
    assert seconds == pytest.approx([max(host, device)] * 8)


def test_steps_between_logged_ones_are_averaged_and_what_lies_between_them_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: now[0])
    times = StepTimes(torch.device("cpu"))
    for took in (1.0, 2.0, 3.0):
        with times.step():
            now[0] += took
        now[0] += 100.0  # a save, a validation
        times.settle()
    assert times.mean_seconds() == pytest.approx(2.0)
