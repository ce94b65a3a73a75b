"""A resumed run says which settings changed, and which steps lie after the one it goes on from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nanotron_zagreus.config import dump_config
from nanotron_zagreus.training.resume_notices import resume_notices
from nanotron_zagreus.training.resume_point import ResumePoint
from tests.unit.data_fixtures import make_config


def resumed(tmp_path: Path, *, saved, now) -> list[str]:
    for step in (10, 20, 30):
        (tmp_path / str(step)).mkdir()
    saved = dataclasses.replace(saved, general=dataclasses.replace(saved.general, step=10, consumed_train_samples=80))
    (tmp_path / "10/config.yaml").write_text(dump_config(saved))  # as a checkpoint's copy says how far it was
    point = ResumePoint(folder=tmp_path / "10", step=10, consumed_samples=0, data_state={}, topology={})
    return resume_notices(now, point)


def with_place(config, root: Path):
    return dataclasses.replace(
        config, checkpoints=dataclasses.replace(config.checkpoints, checkpoints_path=root, resume_checkpoint_path=None)
    )


def test_changed_settings_are_named_with_both_values(tmp_path: Path) -> None:
    saved = with_place(make_config([{"dataset": {"dataset_folder": "a"}}]), tmp_path)
    stage = dataclasses.replace(saved.data_stages[0], name="another")
    now = dataclasses.replace(
        saved,
        general=dataclasses.replace(saved.general, seed=saved.general.seed + 1),
        data_stages=(stage,),
        checkpoints=dataclasses.replace(saved.checkpoints, resume_checkpoint_path=Path("auto")),
    )
    changes, newer = resumed(tmp_path, saved=saved, now=now)
    assert f"general.seed {saved.general.seed} -> {saved.general.seed + 1}" in changes
    assert f"data_stages[0].name {saved.data_stages[0].name} -> another" in changes
    assert "resume_checkpoint_path" not in changes
    assert "20, 30" in newer


def test_an_unchanged_run_at_its_newest_step_is_told_nothing(tmp_path: Path) -> None:
    config = with_place(make_config([{"dataset": {"dataset_folder": "a"}}]), tmp_path / "elsewhere")
    assert resumed(tmp_path, saved=config, now=config) == []
