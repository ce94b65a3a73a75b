"""What a rank writes into a checkpoint, and what it refuses to."""

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
    with pytest.raises(OSError, match="nothing non-finite is saved"):
        saving._result(pending)
