"""Many models in one process: what is done already, what fails alone, what stays in memory."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
from evaluation_fixtures import (
    write_rows,
    write_tiny_model,
)
from evaluation_requests import QUIZ, by_status, request

pytest.importorskip("lm_eval")

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request
from nanotron_zagreus.evaluation.results import newest_results, read_results
from nanotron_zagreus.evaluation.runner import TaskOutcome

pytestmark = pytest.mark.integration


def test_an_interrupted_evaluation_goes_on_where_it_stopped(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    asked = request(models, tmp_path, tasks=("quiz", "heldout"), include_paths=(own_tasks,))

    def stop_after_three(outcome: TaskOutcome) -> None:
        if outcome.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_request(asked, report=stop_after_three)
    outcomes = run_request(asked)
    assert by_status(outcomes) == {
        "skipped": [("1000", "quiz"), ("1000", "heldout"), ("2000", "quiz")],
        "done": [("2000", "heldout")],
    }
    assert by_status(run_request(asked)).keys() == {"skipped"}
    limited = run_request(request(models, tmp_path, tasks=("quiz",), include_paths=(own_tasks,), limit=2))
    assert by_status(limited).keys() == {"done"}  # other conditions are another evaluation
    assert by_status(run_request(asked)).keys() == {"skipped"}  # and do not undo the first
    changed = tmp_path / "changed"
    shutil.copytree(own_tasks, changed)
    write_rows(changed / "quiz.jsonl", [{"pergunta": "?", "opcoes": ["a", "b"], "certa": 1}])
    outcomes = run_request(request(models, tmp_path, tasks=("quiz", "heldout"), include_paths=(changed,)))
    assert by_status(outcomes)["done"] == [("1000", "quiz"), ("2000", "quiz")]  # other data is another evaluation


def test_what_was_asked_for_is_not_already_there(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    asked = request(models / "1000", tmp_path, tasks=("quiz",), include_paths=(own_tasks,))
    (first,) = run_request(asked)
    assert first.result is not None and first.result.conditions.dtypes == {"auto", "float32"}
    for changes, status in (
        ({"dtype": "float32"}, "skipped"),  # what auto came to
        ({"dtype": "bfloat16"}, "done"),
        ({"dtype": "bfloat16"}, "skipped"),
        ({}, "skipped"),
        ({"keep_samples": True}, "done"),
        ({"keep_samples": True}, "skipped"),
        ({"again": True}, "done"),
    ):
        (outcome,) = run_request(EvaluationRequest(**{**vars(asked), **changes}))
        assert (changes, outcome.status) == (changes, status)
    assert len(list(tmp_path.rglob("results_*.json"))) == 4 and len(list(tmp_path.rglob("samples_*.jsonl"))) == 1


def test_a_task_that_crashes_costs_only_itself(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tasks"
    broken.mkdir()
    (broken / "crash.yaml").write_text(
        QUIZ.replace("task: quiz", "task: crash")
        .replace("{{pergunta}}", "{{1 // (certa - 1)}}")
        .replace("quiz.", "c."),
        encoding="utf-8",
    )
    # the first document, on which lm-eval tries the file out, works; the second divides by zero
    rows = [{"pergunta": "?", "opcoes": ["a", "b"], "certa": certa} for certa in (0, 1)]
    write_rows(broken / "c.jsonl", rows)
    asked = request(models, tmp_path / "out", tasks=("crash", "quiz"), include_paths=(own_tasks, broken))
    outcomes = run_request(asked)
    assert by_status(outcomes) == {
        "failed": [("1000", "crash"), ("2000", "crash")],
        "done": [("1000", "quiz"), ("2000", "quiz")],
    }
    assert "ZeroDivisionError" in str(outcomes[0].error)
    write_rows(broken / "c.jsonl", rows[:1])
    repaired = run_request(asked)
    assert by_status(repaired)["done"] == [("1000", "crash"), ("2000", "crash")]


def test_a_model_that_cannot_be_loaded_costs_only_itself(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    bad = tmp_path / "models" / "bad"
    bad.mkdir(parents=True)
    (bad / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (bad / "model.safetensors").write_bytes(b"no weights")
    asked = request(models, tmp_path / "out", tasks=("quiz",), include_paths=(own_tasks,))
    asked = EvaluationRequest(**{**vars(asked), "paths": (str(bad), str(models))})
    outcomes = run_request(asked)
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "done"]
    assert "could not be loaded" in str(outcomes[0].error)


def test_one_model_at_a_time_is_in_memory(own_tasks: Path, models: Path, tmp_path: Path) -> None:
    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, ShotFittingLM) for thing in gc.get_objects())

    counts: list[int] = []
    asked = request(models, tmp_path, tasks=("quiz",), include_paths=(own_tasks,))
    run_request(asked, report=lambda outcome: counts.append(alive()))
    assert counts == [1, 1] and alive() == 0


def test_results_of_other_weights_are_never_mixed_in(own_tasks: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", seed=0)
    asked = request(model, tmp_path / "out", tasks=("quiz",), include_paths=(own_tasks,))
    (first,) = run_request(asked)
    write_tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(InputError, match=r"other files.*--replace"):
        run_request(asked)
    (second,) = run_request(EvaluationRequest(**{**vars(asked), "replace_old": True}))
    assert second.status == "done" and first.result and second.result
    assert first.result.fingerprint != second.result.fingerprint
    assert [result.fingerprint for result in read_results(tmp_path / "out")] == [second.result.fingerprint]


def test_a_nanotron_checkpoint_is_converted_once_and_scores_as_its_folder(
    own_tasks: Path, models: Path, tmp_path: Path
) -> None:
    from nanotron_zagreus.conversion.from_hf import import_folder

    checkpoint = tmp_path / "checkpoints" / "1000"
    import_folder(models / "1000", checkpoint)
    asked = request(
        tmp_path / "checkpoints", tmp_path / "out", tasks=("heldout",), include_paths=(own_tasks,), dtype="float32",
        tokenizer=str(models / "1000"),
    )  # fmt: skip
    (outcome,) = run_request(asked)
    assert outcome.error is None and outcome.result is not None
    converted = tmp_path / "out" / ".converted" / "1000" / "model.safetensors"
    made = converted.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"other files.*a checkpoint and its converted folder are two models"):
        run_request(request(models / "1000", tmp_path / "out", tasks=("heldout",), include_paths=(own_tasks,)))
    run_request(request(models / "1000", tmp_path / "hf", tasks=("heldout",), include_paths=(own_tasks,)))
    (plain,) = newest_results(read_results(tmp_path / "hf"))
    assert outcome.result.scores == plain.scores
    (again,) = run_request(EvaluationRequest(**{**vars(asked), "tasks": ("quiz",)}))
    assert again.status == "done" and converted.stat().st_mtime_ns == made
    changes = {"tasks": ("quiz",), "limit": 1, "keep_converted": False}
    (last,) = run_request(EvaluationRequest(**{**vars(asked), **changes}))
    assert last.status == "done" and not converted.parent.exists()
