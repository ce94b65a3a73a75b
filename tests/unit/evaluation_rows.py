"""Made-up results of the Portuguese progression suite, as tables are built from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nanotron_zagreus.evaluation.conditions import Conditions
from nanotron_zagreus.evaluation.results import TaskResult

_METRICS = {"arc_pt": "acc_norm", "hellaswag_pt": "acc_norm", "m_mmlu_pt": "acc"}
_SHOTS = {"arc_pt": 0, "hellaswag_pt": 0, "m_mmlu_pt": 5}


def result(label: str, task: str, value: float, error: float | None = 0.01, **changes: object) -> TaskResult:
    """Return a result of the progression suite for the checkpoint ``label``."""
    metric = _METRICS.get(task, "acc")
    made = TaskResult(
        label=label,
        task=task,
        conditions=Conditions(
            num_fewshot=_SHOTS.get(task, 0),
            version="1.0",
            limit=None,
            chat_template=False,
            dtypes=frozenset({"auto", "float32"}),
        ),
        scores={metric: value, "other": 0.9},
        errors={} if error is None else {metric: error},
        num_documents=100,
        fingerprint=f"weights-of-{label}",
        data=None,
        documents="documents",
        step=int(label) if label.isdigit() else None,
        tokens=None,
        shots=None,
        date=1.0,
        path=Path(f"results/{label}/results_1.json"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def row_of(label: str, arc: float, hellaswag: float, mmlu: float, error: float = 0.01) -> list[TaskResult]:
    """Return the three results of one checkpoint."""
    values = {"arc_pt": arc, "hellaswag_pt": hellaswag, "m_mmlu_pt": mmlu}
    return [result(label, task, value, error) for task, value in values.items()]
