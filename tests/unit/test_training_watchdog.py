"""The watchdog ends a standing job, whatever the store does, and no job in which anyone gets on."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanotron_zagreus.engine.launch import group_timeout
from nanotron_zagreus.errors import WorkError, agreed
from nanotron_zagreus.training import watchdog
from nanotron_zagreus.training.watchdog import HANG_EXIT_CODE, Watchdog


class Store:
    """A store of one process; ``trouble`` is called before every access."""

    def __init__(self, trouble: Any = lambda: None) -> None:
        self._trouble = trouble
        self._values: dict[str, str] = {}

    def clone(self) -> Store:
        return self

    def set(self, key: str, value: str) -> None:
        self._trouble()
        self._values[key] = value

    def check(self, keys: list[str]) -> bool:
        self._trouble()
        return all(key in self._values for key in keys)

    def get(self, key: str) -> str:
        return self._values[key]


def lost_connection() -> None:
    raise RuntimeError("connection reset by peer")


@pytest.mark.parametrize("trouble", [lost_connection, threading.Event().wait], ids=["raises", "blocks"])
def test_a_store_that_is_gone_or_stands_still_delays_nothing(trouble: Any, capsys: pytest.CaptureFixture[str]) -> None:
    left: list[int] = []
    done = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        done.set()

    with Watchdog(store=Store(trouble), rank=1, world_size=2, timeout_seconds=0.6, leave=leave) as dog:
        dog.at("step 3: forward and backward")
        assert done.wait(timeout=30)
    assert left == [HANG_EXIT_CODE]
    report = capsys.readouterr().err
    assert "rank 1: no progress for" in report and "at step 3: forward and backward" in report
    assert "the rendezvous store has not answered" in report
    assert "never reported" not in report


@pytest.mark.parametrize("failure", [agreed(WorkError("NaN")), RuntimeError("CUDA error: busy\nCompile with")])
def test_a_failure_that_cannot_be_reported_is_ended_too(
    failure: Exception, engine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signals are caught until the report is written: without the watchdog nothing would end a disk that stands."""
    from nanotron_zagreus.training.loop import TrainingLoop
    from nanotron_zagreus.training.signals import SignalRequests

    done = threading.Event()

    def fail(first: int) -> Any:
        raise failure

    def write_to_a_disk_that_stands(*arguments: Any) -> None:
        assert done.wait(timeout=30)

    loop: Any = object.__new__(TrainingLoop)
    loop.trainer = SimpleNamespace(start_iteration_step=6, iteration_step=7)
    loop.control = SimpleNamespace(clear_stale_files=lambda: None)
    loop.saver = SimpleNamespace(clear_leftovers=lambda root: None, newest=None, finish=write_to_a_disk_that_stands)
    loop.loader, loop.reports = SimpleNamespace(close=lambda: None), SimpleNamespace(close=lambda wait: None)
    loop.root, loop.ranks = Path(), SimpleNamespace(rank=0)
    loop.signals, loop._steps, loop._report = SignalRequests(), fail, lambda *arguments: None
    loop.watchdog = Watchdog(store=Store(), rank=0, world_size=1, timeout_seconds=0.6, leave=lambda code: done.set())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(failure)):
        patch.setattr("nanotron_zagreus.training.loop.record_failure", write_to_a_disk_that_stands)
        loop.run()
    assert f"at step 7: reporting {type(failure).__name__}: {str(failure).splitlines()[0]}. " in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    return now


def make(world_size: int = 2) -> Watchdog:
    return Watchdog(store=Store(), rank=0, world_size=world_size, timeout_seconds=10.0)


def test_a_job_stands_when_neither_this_rank_nor_another_gets_on(clock: list[float]) -> None:
    dog = make()
    clock[0] = 9.0
    assert not dog._job_stands()
    dog.beat()  # a chunk of a file written in the background
    clock[0] = 18.0
    assert not dog._job_stands()
    clock[0] = 20.0
    assert dog._job_stands()


def test_a_rank_that_waits_for_one_that_writes_slowly_waits(clock: list[float]) -> None:
    dog = make()
    for second in range(2, 41, 2):
        clock[0] = float(second)
        dog._hear(1, {"place": "step 5: saving", "beats": second, "published": second})
        assert not dog._job_stands()
    for second in range(42, 53, 2):  # it still reports, but writes no more
        clock[0] = float(second)
        dog._hear(1, {"place": "step 5: saving", "beats": 40, "published": second})
    assert dog._job_stands()


def test_what_a_rank_did_before_it_was_first_heard_holds_nobody_up(clock: list[float]) -> None:
    dog = make()
    clock[0] = 9.0
    dog._hear(1, {"place": "step 5: reading data", "beats": 100, "published": 9})
    clock[0] = 11.0
    assert dog._job_stands()


def test_the_silent_rank_is_named_and_without_one_those_that_stand_elsewhere(clock: list[float]) -> None:
    dog = make(world_size=4)
    dog.at("step 7: forward and backward")
    for other, place in ((1, "reading data"), (2, "forward and backward"), (3, "forward and backward")):
        dog._hear(other, {"place": f"step 7: {place}", "beats": 1, "published": 1})
    assert dog._report().endswith("rank 1 is at step 7: reading data")
    clock[0] = 11.0
    dog._store_answered_at = 11.0
    for other in (1, 3):
        dog._hear(other, {"place": "step 7: forward and backward", "beats": 1, "published": 2})
    assert dog._report().endswith("rank 2 was last heard of 11 s ago at step 7: forward and backward")


def test_collectives_wait_longer_than_the_watchdog_and_for_ever_when_it_does() -> None:
    assert group_timeout(600.0) > 2 * timedelta(seconds=600)
    assert group_timeout(7200.0) > 2 * timedelta(seconds=7200)
    assert group_timeout(0.0) > timedelta(days=365)


def test_groups_of_the_engine_and_ours_get_that_timeout(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from nanotron import distributed as dist

    from nanotron_zagreus.engine import launch

    monkeypatch.setattr(launch, "_timeout", [group_timeout(0.0)])
    seen = []
    original = torch.distributed.new_group
    monkeypatch.setattr(dist.dist, "new_group", lambda **options: seen.append(options) or original(**options))
    group = dist.new_group(ranks=[0])
    assert seen[0]["timeout"] == group_timeout(0.0)
    value = torch.ones(1)
    torch.distributed.all_reduce(value, group=group)
    assert value.item() == 1
