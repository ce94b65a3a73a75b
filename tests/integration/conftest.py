"""What tests share: data sets, models and task files, runs with checkpoints, made once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_fixtures import leaderboard_rows, progression_rows, write_data, write_rows, write_tiny_model
from evaluation_requests import HELDOUT, QUIZ
from long_runs import kill_everything, start, wait_for_step
from tiny_runs import DP2, launch, tiny_config, write_config


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies of every data set that the Portuguese suites read."""
    return write_data(tmp_path_factory.mktemp("data"), {**leaderboard_rows(3), **progression_rows(6)})


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tiny models called 1000 and 2000."""
    folder = tmp_path_factory.mktemp("models")
    for seed, step in enumerate((1000, 2000)):
        write_tiny_model(folder / str(step), seed=seed, context=768)
    return folder


@pytest.fixture(scope="session")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two task files and their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "quiz.yaml").write_text(QUIZ, encoding="utf-8")
    (folder / "heldout.yaml").write_text(HELDOUT, encoding="utf-8")
    rows = [{"pergunta": f"Quanto é {n} + 1?", "opcoes": [str(n), str(n + 1)], "certa": 1} for n in range(4)]
    write_rows(folder / "quiz.jsonl", rows)
    write_rows(folder / "heldout.jsonl", [{"text": "O rio corre para o mar."}, {"text": "A noite caiu cedo."}])
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process with the steps 5 and 10 saved, and the figures of its kin."""
    root = tmp_path_factory.mktemp("saved")
    names = {
        "plain": {},
        "foreground": {"zagreus__checkpoints": {"background": False}},
        "keep": {"checkpoints__checkpoint_interval": 1, "zagreus__checkpoints": {"keep_last": 2, "keep_every": 4}},
        "final": {
            "checkpoints__save_final_state": True,
            "checkpoints__save_initial_state": True,
            "optimizer__weight_decay_exclude_named_params": [".*norm"],
        },
    }
    files = [
        write_config(root / f"{n}.yaml", tiny_config(root, **o, checkpoints__checkpoints_path=str(root / n)))
        for n, o in names.items()
    ]
    launch(files, num_processes=1)
    return root


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A launch of two ranks that would train for long, killed at the end of the test."""
    overrides = {"tokens__train_steps": 100_000, "checkpoints__checkpoint_interval": 50_000}
    guards = {"zagreus__guards": {"hang_timeout_seconds": 8.0}}
    config = tiny_config(tmp_path, **DP2, **overrides, **guards)
    process = start(write_config(tmp_path / "run.yaml", config), 2)
    root = tmp_path / "checkpoints"
    try:
        wait_for_step(root, 3, process)
        yield root, process
    finally:
        kill_everything(process)
