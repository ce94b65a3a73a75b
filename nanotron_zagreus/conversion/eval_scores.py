"""Read scores out of lm-eval's own result files, for the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.errors import InputError, MissingInputError

_NOT_METRICS = ("alias", "name", "sample_len")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task."""

    task: str
    metric: str
    """As lm-eval names it, the filter after a comma left out when it is `none`."""
    value: float
    error: str
    """Standard error as text; a dash when lm-eval gives none."""
    num_shots: str


def read_scores(path: Path) -> list[Score]:
    """Return the scores of an lm-eval result file, or of all result files under a folder, the newest per task.

    Raises:
        MissingInputError: nothing there.
        InputError: a file that lm-eval did not write.
    """
    if not path.exists():
        raise MissingInputError(f"{path}: no such file or folder of lm-eval results")
    files = [path] if path.is_file() else sorted(path.rglob("results*.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise MissingInputError(f"{path}: no results*.json under it; give the folder that lm-eval wrote to")
    scores: dict[tuple[str, str], Score] = {}
    for file in files:
        data = read_json(file)
        results = data.get("results")
        if not isinstance(results, dict):
            raise InputError(f"{file}: no `results` in it; expected a result file of lm-eval")
        for task, metrics in results.items():
            if isinstance(metrics, dict):
                for score in _task_scores(task, metrics, data):
                    scores[task, score.metric] = score
    return sorted(scores.values(), key=lambda score: (score.task, score.metric))


def _task_scores(task: str, metrics: dict[str, Any], data: dict[str, Any]) -> list[Score]:
    shots = data.get("n-shot")
    num_shots = shots.get(task) if isinstance(shots, dict) else None
    found = []
    for key, value in metrics.items():
        name, _, filter_name = key.partition(",")
        if name in _NOT_METRICS or name.endswith("_stderr") or isinstance(value, bool):
            continue
        if not isinstance(value, int | float):
            continue
        error = metrics.get(f"{name}_stderr,{filter_name}")
        found.append(
            Score(
                task=task,
                metric=name if filter_name in ("", "none") else f"{name},{filter_name}",
                value=float(value),
                error=f"{error:.4f}" if isinstance(error, float) else "-",
                num_shots="-" if num_shots is None else str(num_shots),
            )
        )
    return found
