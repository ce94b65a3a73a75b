"""Held-out loss by source, beside a training that does not notice. CPU, gloo, at most two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import (
    DP2,
    launch,
    read_events,
    read_losses,
    tiny_config,
    write_config,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("documents", [False, True])
def test_validation_scores_each_source_and_leaves_training_alone(saved: Path, tmp_path: Path, documents: bool) -> None:
    """Of a source's 5 windows two ranks take 2 each, and then one takes the last."""
    held_out = {"zagreus__validation_windows_per_source": 5, "zagreus__document_masking": documents}
    runs = {"without": {}, "with": {"tokens__val_check_interval": 3, "tokens__limit_val_batches": 4}}
    files = {}
    for name, overrides in runs.items():
        folder = {"checkpoints__checkpoints_path": str(tmp_path / name)}
        files[name] = write_config(
            tmp_path / f"{name}.yaml", tiny_config(saved, **DP2, **held_out, **overrides, **folder)
        )
    pipeline = tiny_config(
        saved,
        **held_out,
        parallelism__pp=2,
        tokens__val_check_interval=3,
        tokens__limit_val_batches=8,
        checkpoints__checkpoints_path=str(tmp_path / "pp"),
    )
    launch([*files.values(), write_config(tmp_path / "pp.yaml", pipeline)], num_processes=2)
    assert read_losses(tmp_path / "with") == read_losses(tmp_path / "without")
    events = read_events(tmp_path / "with", "validation")
    assert [event["iteration"] for event in events] == [3, 3, 6, 6, 9, 9, 12, 12]
    assert {Path(event["source"]).name for event in events} == {"a", "b"}
    assert events[-1]["loss"] < events[0]["loss"]
    for ours, theirs in zip(events, read_events(tmp_path / "pp", "validation"), strict=True):
        assert ours["num_tokens"] == theirs["num_tokens"]
        assert abs(ours["loss"] - theirs["loss"]) < 1e-5
