"""Requests for evaluations of tiny models, and two task files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanotron_zagreus.evaluation.requests import EvaluationRequest
from nanotron_zagreus.evaluation.runner import TaskOutcome

QUIZ = """\
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: quiz.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{pergunta}}"
doc_to_choice: opcoes
doc_to_target: certa
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
HELDOUT = """\
task: heldout
dataset_path: json
dataset_kwargs: {data_files: {test: heldout.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
metadata: {version: 1.0}
"""


def request(models: Path, output: Path, **changes: Any) -> EvaluationRequest:
    """Return a request for all of ``models``."""
    return EvaluationRequest(**{"paths": (str(models),), "output": output, "device": "cpu", **changes})


def by_status(outcomes: list[TaskOutcome]) -> dict[str, list[tuple[str, str]]]:
    """Return the (model, task) pairs by what became of them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.status, []).append((outcome.label, outcome.task))
    return found
