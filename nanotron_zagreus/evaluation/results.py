"""Read and write results: lm-eval's own JSON files, one folder per model, the newest file per task wins.

What lm-eval does not record stands in the file under ``zagreus``; files that the plain `lm-eval` command
wrote are read too.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.conversion.eval_scores import OWN_SECTION, ResultRank, rank_of_result, result_files, revision_of
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.evaluation.conditions import Conditions, read_conditions
from nanotron_zagreus.evaluation.subjects import step_in_name


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The scores of one model on one task."""

    label: str
    task: str
    conditions: Conditions
    scores: Mapping[str, float]
    """Value by metric, filters left off."""
    errors: Mapping[str, float]
    """Standard error by metric, where there is one."""
    num_documents: int | None
    fingerprint: str | None
    """Of the model's files; None when another program wrote the file."""
    data: str | None
    """Of the plain files the task was read from; None for data of the hub."""
    documents: str | None
    """Hash of the documents evaluated; None when another program wrote the file."""
    step: int | None
    tokens: int | None
    shots: Mapping[str, Any] | None
    """Shots kept and documents cut, see ShotCount; None when another program wrote the file."""
    date: float
    """Seconds since the epoch at which the evaluation began."""
    path: Path


def read_results(folder: Path) -> list[TaskResult]:
    """Return every result in the results files under ``folder``, hidden folders left out.

    Raises:
        InputError: a file that is not lm-eval's.
    """
    return [result for path in result_files(folder, "results_*.json") for result in read_file(path)]


def newest_results(results: Iterable[TaskResult]) -> list[TaskResult]:
    """Return the result that counts for every (model, task).

    The newest one on all documents; without such a one, that on the most documents, again the newest.
    """
    counting: dict[tuple[str, str], TaskResult] = {}
    for result in results:
        key = (result.label, result.task)
        if key not in counting or _rank(result) >= _rank(counting[key]):
            counting[key] = result
    return list(counting.values())


def _rank(result: TaskResult) -> ResultRank:
    return rank_of_result(result.conditions.limit, result.num_documents, result.date)


def write_results(folder: Path, results: dict[str, Any], *, keep_samples: bool, tracker: Any) -> Path:
    """Let lm-eval write its results file, and move it into ``folder`` only when it is whole.

    Args:
        folder: the model's folder of results.
        results: what lm-eval returned, with our section added; its samples are taken out.
        keep_samples: also write every document's prompt and answer.
        tracker: lm-eval's EvaluationTracker that followed the evaluation.

    Raises:
        WorkError: the file could not be written; lm-eval itself only warns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = results.pop("samples", {})
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as staging:
        tracker.output_path = str(Path(staging) / "results.json")
        tracker.save_results_aggregated(results=results, samples=samples)
        if keep_samples:
            for task, rows in samples.items():
                tracker.save_results_samples(task_name=task, samples=rows)
        written = sorted(Path(staging).iterdir(), key=lambda path: path.name.startswith("results_"))
        if not written or not written[-1].name.startswith("results_"):
            raise WorkError(f"{folder}: lm-eval could not write its results there; check free space and rights")
        for path in written:  # the results file last: it says that the rest is there
            path.replace(folder / path.name)
    return folder / written[-1].name


def has_samples(result: TaskResult) -> bool:
    """Say whether every document's prompt and answer were written beside ``result``, under its file's date."""
    date = result.path.stem.removeprefix("results_")
    return result.path.with_name(f"samples_{result.task}_{date}.jsonl").is_file()


def set_aside(paths: Sequence[Path]) -> None:
    """Move results files into a hidden folder beside them, where nothing reads them."""
    for path in paths:
        hidden = path.parent / ".replaced"
        hidden.mkdir(exist_ok=True)
        path.replace(hidden / path.name)


def read_file(path: Path) -> Iterator[TaskResult]:
    """Yield the results in one file of lm-eval's.

    Raises:
        InputError: it is not one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        own = data.get(OWN_SECTION) or {}
        label = own.get("label") or _label_of(data, path)
        name = label if revision_of(data) else label.rpartition("__")[2]
        for task, values in data["results"].items():
            if task in (data.get("groups") or {}):
                continue
            yield TaskResult(
                label=label,
                task=task,
                conditions=read_conditions(data, own, task),
                scores=_numbers(values, error=False),
                errors=_numbers(values, error=True),
                num_documents=((data.get("n-samples") or {}).get(task) or {}).get("effective"),
                fingerprint=own.get("fingerprint"),
                data=(own.get("data") or {}).get(task),
                documents=(own.get("documents") or {}).get(task),
                step=own.get("step") if own else step_in_name(name),
                tokens=own.get("tokens"),
                shots=(own.get("shots") or {}).get(task),
                date=float(data.get("date") or 0.0),
                path=path,
            )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a results file of lm-eval ({type(error).__name__}: {error}); move it away or delete it"
        ) from error


def _label_of(data: dict[str, Any], path: Path) -> str:
    """Return what `zagreus evaluate` would call the model of a file that the plain command wrote."""
    name, revision = Path(str(data.get("model_name") or "")), revision_of(data)
    parts = [name.name] if name.is_absolute() else [part for part in name.parts if part != ".."]
    return ("__".join(parts) or path.parent.name) + (f"@{revision.replace('/', '__')}" if revision else "")


def _numbers(values: Mapping[str, Any], *, error: bool) -> dict[str, float]:
    """Return the metrics, or their standard errors, of one task, by the metric's name without filter."""
    found: dict[str, float] = {}
    for key, value in values.items():
        metric = key.partition(",")[0]
        if "," not in key or metric.endswith("_stderr") is not error or not isinstance(value, int | float):
            continue
        if not math.isnan(value):
            found.setdefault(metric.removesuffix("_stderr"), float(value))
    return found
