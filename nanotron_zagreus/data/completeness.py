"""Hold a folder of shards against the plan of its tokenization: what a task was to write and is not there.

A folder without a plan (datatrove's own, or one whose `logs/` was not copied) can only be searched for files that have
lost their `.ds`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nanotron_zagreus.data.plan_file import plan_path, read_plan
from nanotron_zagreus.data.progress import read_failures, read_task_results
from nanotron_zagreus.data.shard_file import shard_name
from nanotron_zagreus.data.shards import read_shard
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.units import first_few

_MAX_NAMED = 5


def missing_parts(folder: Path, names: Collection[str]) -> list[str]:
    """Return a sentence for every kind of thing that ``folder`` lacks to be complete.

    Args:
        names: of the files in the folder.
    """
    problems = []
    orphans = [
        name for name in names if name.endswith((".ds.index", ".ds.metadata")) and name.rpartition(".")[0] not in names
    ]
    if orphans:
        named = first_few(sorted(orphans), _MAX_NAMED)
        problems.append(f"{folder}: {named} without the .ds file; restore it, or remove what is left")
    ranks = [rank for rank in range(_num_tasks(folder)) if shard_name(rank) not in names]
    ranks = [rank for rank in ranks if not _left_nothing(_result(folder, rank))]
    if ranks:
        problems.append(
            f"{folder}: the shard of task {first_few(ranks, _MAX_NAMED)} of its {_num_tasks(folder)} tasks is "
            "missing; run its `zagreus tokenize` again to do what is missing (or remove its logs/plan.json if it is "
            "meant to stay a part)"
        )
    return problems


def changed_shards(folder: Path) -> list[str]:
    """Return a sentence for every shard in ``folder`` that has not the tokens its task says it wrote."""
    problems = []
    for rank, result in sorted(read_task_results(folder / "logs" / "results", _num_tasks(folder)).items()):
        path = folder / shard_name(rank)
        if not result.get("done") or not path.is_file():
            continue
        try:
            found = read_shard(path).num_tokens
        except (InputError, OSError):
            continue  # `verify_shard` reports it
        if found != result["tokens"]:
            problems.append(f"{path}: holds {found:,} tokens, its task wrote {result['tokens']:,}; tokenize again")
    return problems


def num_left_out(folder: Path) -> int:
    """Return how many documents or files the tokenization into ``folder`` could not read, as far as its logs tell."""
    results = read_task_results(folder / "logs" / "results", _num_tasks(folder)).values()
    counted = sum(result.get("failures", 0) for result in results)
    return counted or len(read_failures(folder / "logs" / "failures"))


def _num_tasks(folder: Path) -> int:
    """Return the tasks of the folder's plan; 0 without one."""
    plan = read_plan(plan_path(folder))
    return 0 if plan is None else len(plan["tasks"])


def _result(folder: Path, rank: int) -> dict[str, Any]:
    try:
        return json.loads((folder / "logs" / "results" / f"{rank:05d}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _left_nothing(result: dict[str, Any]) -> bool:
    return bool(result.get("done")) and result.get("documents") == 0
