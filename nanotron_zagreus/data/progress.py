"""Say how far the tokenization of a folder is, from the files its tasks leave; starts and changes nothing."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.data.plan_file import plan_path, read_plan
from nanotron_zagreus.data.slurm_jobs import active_jobs
from nanotron_zagreus.errors import MissingInputError


@dataclass(frozen=True, kw_only=True)
class FolderProgress:
    """How far one folder is."""

    output: str
    num_tasks: int
    num_complete: int
    documents: int
    """Of finished and of running tasks, as all counts here."""
    tokens: int
    failures: int
    bytes_read: int
    bytes_total: int
    """0 where it is not known: a dataset on the hub."""
    active_jobs: tuple[str, ...]
    """Slurm jobs submitted for the folder that are queued or running."""


def read_progress(output: Path) -> FolderProgress:
    """Return how far the tokenization into ``output`` is.

    Raises:
        MissingInputError: none was begun there.
        InputError: its plan cannot be read.
    """
    logs, plan = output / "logs", read_plan(plan_path(output))
    if plan is None:
        raise MissingInputError(
            f"--output: {output} holds no tokenization; check the path (a recipe has a folder for each source)"
        )
    tasks = plan["tasks"]
    results = read_task_results(logs / "results", len(tasks)).values()
    return FolderProgress(
        output=str(output),
        num_tasks=len(tasks),
        num_complete=len(list((logs / "completions").glob("[0-9]*"))),
        documents=sum(result["documents"] for result in results),
        tokens=sum(result["tokens"] for result in results),
        failures=sum(result["failures"] for result in results),
        bytes_read=sum(result["bytes_read"] for result in results),
        bytes_total=sum(entry[1] for task in tasks for entry in task),
        active_jobs=tuple(active_jobs(output)),
    )


def read_task_results(folder: Path, num_tasks: int) -> dict[int, dict[str, Any]]:
    """Return what each task that has begun wrote about itself, by rank."""
    results = {}
    for path in folder.glob("[0-9]*.json"):
        if int(path.stem) < num_tasks:
            with contextlib.suppress(ValueError):  # a machine that lost power may leave an empty file
                results[int(path.stem)] = json.loads(path.read_text(encoding="utf-8"))
    return results


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return what tasks could not read: file, row (None: unknown) and error, at most 1000 a file.

    A line that a full disk cut in two stands there as one more thing that could not be read.
    """
    failures = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            try:
                failures.append(json.loads(line))
            except ValueError:
                failures.append({"file": str(path), "row": number, "error": f"damaged line of this list: {line[:200]}"})
    return failures
