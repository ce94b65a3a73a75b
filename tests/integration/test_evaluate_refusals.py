"""What cannot be evaluated is refused before a model is loaded, with the way round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import (
    leaderboard_rows,
    write_data,
    write_rows,
    write_tiny_model,
)
from evaluation_requests import QUIZ, request

pytest.importorskip("lm_eval")

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.requests import run_request

pytestmark = pytest.mark.integration


def test_a_broken_task_file_is_refused_before_any_model_is_loaded(models: Path, tmp_path: Path) -> None:
    (tmp_path / "quiz.yaml").write_text(QUIZ.replace("opcoes", "alternativas"), encoding="utf-8")
    write_rows(tmp_path / "quiz.jsonl", [{"pergunta": "?", "opcoes": ["a"], "certa": 0}])
    with pytest.raises(InputError, match=r"quiz\.yaml does not fit its data"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path,)))
    (tmp_path / "quiz.jsonl").unlink()
    with pytest.raises(InputError, match=r"quiz\.jsonl"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path,)))


@pytest.fixture
def only_given_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spare the scan of all of lm-eval's own tasks, which takes half a minute."""
    import lm_eval.tasks

    class SmallManager(lm_eval.tasks.TaskManager):
        def __init__(self, include_path: Any = None, include_defaults: bool = False) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", SmallManager)
    yield


@pytest.mark.usefixtures("only_given_folders")
def test_an_unknown_task_is_refused_with_the_nearest_name(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'enem_challenge'"):
        run_request(request(models, tmp_path / "out", tasks=("enem_chalenge",)))
    with pytest.raises(InputError, match="--include-path"):
        run_request(request(models, tmp_path / "out", tasks=("quiz",), include_paths=(tmp_path / "none",)))


def test_missing_data_is_refused_with_the_command_that_fetches_it(models: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"hf download --repo-type dataset alexandrainst/m_arc"):
        run_request(request(models, tmp_path / "out", suite="progression-por", data=tmp_path / "empty"))
    rows = leaderboard_rows(1)
    rows["nilc-nlp/assin2", "train"] = rows["nilc-nlp/assin2", "train"][:-1]
    with pytest.raises(InputError, match=r"sentence_pair_id 3275 are missing from the data's 49 rows"):
        run_request(request(models, tmp_path / "out", tasks=("assin2_rte",), data=write_data(tmp_path / "part", rows)))


def test_a_data_set_kept_as_a_script_is_refused_with_the_way_round(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ruanchaves" / "faquad-nli"
    folder.mkdir(parents=True)
    (folder / "README.md").touch()
    (folder / "faquad-nli.py").touch()
    with pytest.raises(InputError, match=r"loading script.*--revision refs/convert/parquet"):
        run_request(request(models, tmp_path / "out", tasks=("faquad_nli",), data=tmp_path / "data"))


def test_a_model_whose_tokenizer_names_no_end_of_text_is_told_what_it_lacks(data: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "eos_token"}), encoding="utf-8")
    (outcome,) = run_request(request(model, tmp_path / "out", tasks=("oab_exams",), data=data))
    assert outcome.status == "failed" and "name one as eos_token" in str(outcome.error)
