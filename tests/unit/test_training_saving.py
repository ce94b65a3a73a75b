"""What a rank writes into a checkpoint, what it refuses to, and what around a save that is whole ends no run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_written(engine: Any, value: float, tmp_path: Path) -> None:
    from nanotron_zagreus.training import saving

    weight = torch.zeros(3, 4)
    snapshot: Any = SimpleNamespace(weight_tensors=lambda: [torch.ones(2), weight], write=lambda folder, beat: [])
    pending = saving._Pending(tmp_path / ".saving-5", tmp_path / "5", {})
    saving._write(pending, snapshot, lambda: None)
    assert pending.error is None
    weight[2, 3] = value
    snapshot.write = lambda folder, beat: pytest.fail("it was written")
    saving._write(pending, snapshot, lambda: None)
    with pytest.raises(ValueError, match="nothing non-finite is saved"):
        saving._result(pending)


def test_old_checkpoints_that_cannot_be_looked_for_stay(
    engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.saving import CheckpointSaver

    ranks: Any = SimpleNamespace(is_leader=True)
    saver = CheckpointSaver(lambda: pytest.fail("no save begins"), ranks, None)
    saver._keeping = SimpleNamespace(keep_last=1, keep_every=None)
    saver._prune(tmp_path / "out of reach")
    assert "could not look for old checkpoints" in capsys.readouterr().err
