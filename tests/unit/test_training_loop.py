"""How a run that fails leaves its reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nanotron_zagreus.errors import WorkError, agreed


@pytest.mark.parametrize("trouble", [WorkError("No space left"), RuntimeError("Connection closed by peer")])
def test_what_happens_to_the_last_save_does_not_take_the_place_of_the_failure(trouble: Exception, engine: Any) -> None:
    from nanotron_zagreus.training.loop import TrainingLoop

    def fail() -> None:
        raise trouble

    said, reported = [], []
    loop: Any = object.__new__(TrainingLoop)
    loop.trainer = SimpleNamespace(iteration_step=7, say=said.append)
    loop.saver = SimpleNamespace(newest=None, finish=fail)
    loop.watchdog = SimpleNamespace(at=lambda place: None)
    loop._report = lambda *arguments: reported.append(arguments)
    loop._report_failure(agreed(WorkError("20 steps in a row were skipped")))
    assert said == [f"the last save was not completed: {trouble}"]
    assert reported == [("failed", 7, "20 steps in a row were skipped")]
