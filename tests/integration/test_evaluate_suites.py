"""Every suite end to end on tiny models and local data, and its scores against stock lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import (
    LEADERBOARD,
    progression_rows,
    write_data,
    write_hub_card,
)
from evaluation_requests import by_status, request

pytest.importorskip("lm_eval")

from nanotron_zagreus.evaluation.requests import run_request
from nanotron_zagreus.evaluation.results import read_results

pytestmark = pytest.mark.integration

PROGRESSION = ("arc_pt", "hellaswag_pt", "m_mmlu_pt")


def test_all_twelve_portuguese_tasks_run_on_local_data(data: Path, models: Path, tmp_path: Path) -> None:
    for suite, tasks in (("progression-por", PROGRESSION), ("leaderboard-pt", LEADERBOARD)):
        outcomes = run_request(request(models / "1000", tmp_path, suite=suite, data=data, limit=2))
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert by_status(outcomes) == {"done": [("1000", task) for task in tasks]}
    results = {result.task: result for result in read_results(tmp_path)}
    assert len(results) == 12
    assert {result.num_documents for result in results.values()} == {2}
    assert {result.step for result in results.values()} == {1000}
    assert {result.conditions.context for result in results.values()} == {"whole-shots", "leaderboard-pt"}
    mmlu = results["m_mmlu_pt"].conditions
    assert (mmlu.num_fewshot, mmlu.version, mmlu.limit, mmlu.chat_template) == (5, "0.0", 2, False)
    rte = results["assin2_rte"]
    assert set(rte.scores) == {"f1_macro", "acc"} and set(rte.errors) == {"f1_macro", "acc"}
    recorded = json.loads(results["arc_pt"].path.read_text(encoding="utf-8"))
    assert len(recorded["zagreus"]["fingerprint"]) == 16 and recorded["task_hashes"]["arc_pt"]
    assert recorded["config"]["model_num_parameters"] > 1000 and recorded["lm_eval_version"]


@pytest.mark.parametrize(("language", "code"), [("ita", "it"), ("spa", "es"), ("fra", "fr")])
def test_the_progression_of_every_language_runs(models: Path, tmp_path: Path, language: str, code: str) -> None:
    data = write_data(tmp_path / "data", progression_rows(2, code))
    outcomes = run_request(request(models / "1000", tmp_path / "out", suite=f"progression-{language}", data=data))
    assert by_status(outcomes) == {"done": [("1000", f"{task}_{code}") for task in ("arc", "hellaswag", "m_mmlu")]}


def test_scores_equal_those_of_the_cards_commands(
    data: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock lm-eval, tasks named as on the card, in a folder of hub copies."""
    import lm_eval.tasks
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    copies = write_data(tmp_path / "copies", progression_rows(6))
    write_hub_card(copies / "alexandrainst/m_mmlu", {"pt": ["train", "test"]})
    write_hub_card(copies / "alexandrainst/m_hellaswag", {"pt": ["val"]})
    write_hub_card(copies / "alexandrainst/m_arc", {"pt": ["train", "validation", "test"]})
    run_request(request(models / "1000", tmp_path / "out", suite="progression-por", data=data, batch_size="1"))
    run_request(request(models / "1000", tmp_path / "copied", suite="progression-por", data=copies, batch_size="1"))
    monkeypatch.chdir(copies)
    manager = TaskManager(include_path=str(Path(lm_eval.tasks.__file__).parent / "okapi"), include_defaults=False)
    arguments = {"model": "hf", "model_args": f"pretrained={models / '1000'}", "task_manager": manager, "device": "cpu"}
    stock: dict[str, Any] = {}
    for tasks, shots in ((["m_mmlu_pt"], 5), (["hellaswag_pt", "arc_pt"], None)):
        stock |= simple_evaluate(tasks=tasks, num_fewshot=shots, batch_size=1, **arguments)["results"]
    for folder in ("out", "copied"):
        for result in read_results(tmp_path / folder):
            for metric, value in result.scores.items():
                assert value == stock[result.task][f"{metric},none"]
                assert result.errors[metric] == stock[result.task][f"{metric}_stderr,none"]
