"""What a rank writes into a checkpoint, what it refuses to, and what around a save that is whole ends no run."""

from __future__ import annotations

import errno
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


def test_ranks_that_fail_alike_are_named_together(engine: Any) -> None:
    """Each names its own file; 64 of them made a line of 64 paths."""
    from nanotron_zagreus.training import saving

    def full(rank: int) -> tuple[str, str]:
        return saving._words(OSError(errno.ENOSPC, "No space left on device", f"model/{rank}.safetensors"))

    failures = [None if rank == 2 else full(rank) for rank in range(64)]
    failures[5] = saving._words(ValueError("not finite"))
    assert saving._by_reason(failures) == (
        "ranks 0, 1, 3, 4 and 58 more: OSError: [Errno 28] No space left on device: 'model/0.safetensors'; "
        "rank 5: ValueError: not finite"
    )


def test_old_checkpoints_that_cannot_be_looked_for_stay(
    engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.saving import CheckpointSaver

    ranks: Any = SimpleNamespace(is_leader=True)
    saver = CheckpointSaver(lambda: pytest.fail("no save begins"), ranks, None)
    saver._keeping = SimpleNamespace(keep_last=1, keep_every=None)
    saver._prune(tmp_path / "out of reach")
    assert "could not look for old checkpoints" in capsys.readouterr().err
