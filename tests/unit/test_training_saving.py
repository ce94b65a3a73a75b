"""What happens around a save that is whole already ends no run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_old_checkpoints_that_cannot_be_looked_for_stay(
    engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.saving import CheckpointSaver

    ranks: Any = SimpleNamespace(is_leader=True)
    saver = CheckpointSaver(lambda: pytest.fail("no save begins"), ranks, None)
    saver._keeping = SimpleNamespace(keep_last=1, keep_every=None)
    saver._prune(tmp_path / "out of reach")
    assert "could not look for old checkpoints" in capsys.readouterr().err
