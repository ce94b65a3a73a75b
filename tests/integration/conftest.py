"""What the evaluation tests share: data sets, models and task files, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_fixtures import leaderboard_rows, progression_rows, write_data, write_rows, write_tiny_model
from evaluation_requests import HELDOUT, QUIZ


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
