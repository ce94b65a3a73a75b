"""Say which data sets a suite reads, where their copies belong, and whether they are there."""

from __future__ import annotations

import json
from pathlib import Path

from nanotron_zagreus.errors import VerificationError
from nanotron_zagreus.evaluation.local_data import DataNeed, data_need, form_of_data, missing_data
from nanotron_zagreus.evaluation.suites import find_suite
from nanotron_zagreus.evaluation.task_sources import TASKS_FOLDER, index_tasks, task_config


def needs_of(suite: str) -> dict[str, DataNeed]:
    """Return what each task of ``suite`` reads, by the task's name."""
    names = find_suite(suite).tasks
    manager = index_tasks(names)
    needs = {name: data_need(task_config(manager, name)) for name in names}
    return {name: need for name, need in needs.items() if need is not None}


def describe_needs(needs: dict[str, DataNeed], data: Path | None) -> str:
    """Return the needs as JSON; with ``data``, whether each is met there and in what form."""
    forms = {task: form_of_data(need, data) for task, need in needs.items()} if data else {}
    rows = [
        {
            "task": task,
            "dataset": need.dataset,
            "config": need.config,
            "splits": list(need.splits),
            "folder": need.dataset,
            "download": need.download_command,
            **({"present": forms[task] is not None, "form": forms[task]} if data else {}),
        }
        for task, need in needs.items()
    ]
    return json.dumps({"tasks_folder": str(TASKS_FOLDER), "data": rows}, ensure_ascii=False, indent=2)


def print_needs(needs: dict[str, DataNeed], data: Path | None) -> None:
    """Print the needs as a table with the commands that fetch them."""
    from rich.console import Console

    console = Console(highlight=False)
    # Lines that a script can cut and a person can copy: names are never broken to fit a terminal.
    names = {task: need.dataset + (f"/{need.config}" if need.config else "") for task, need in needs.items()}
    columns = [("Task", *needs), ("Data set and config", *names.values())]
    columns.append(("Splits", *(", ".join(need.splits) for need in needs.values())))
    if data:
        columns.append(("In the folder", *(form_of_data(need, data) or "missing" for need in needs.values())))
    widths = [max(map(len, column)) for column in columns]
    for cells in zip(*columns, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        console.print(line.rstrip(), soft_wrap=True, markup=False)
    console.print()
    console.print(
        "Copies belong into one folder DIR, which --data names. On a machine with network:",
        style="bold",
        soft_wrap=True,
    )
    for command in dict.fromkeys(need.download_command for need in needs.values()):
        console.print(f"  {command}", soft_wrap=True)
    console.print(
        "A data set that `datasets` calls a script: the same with --revision refs/convert/parquet", soft_wrap=True
    )
    console.print("Or plain files: DIR/<data set>/<config, if any>/<split>.jsonl (.parquet, .csv)")
    console.print(
        f"For the plain lm-eval, started in DIR, which reads hub copies alone: --include_path {TASKS_FOLDER}",
        soft_wrap=True,
    )


def refuse_lacking(needs: dict[str, DataNeed], data: Path) -> None:
    """Raise unless ``data`` holds everything that is needed.

    Raises:
        VerificationError: it lacks something.
    """
    missing = missing_data(needs.values(), data)
    if missing:
        lacking = ", ".join(dict.fromkeys(need.dataset for need in missing))
        raise VerificationError(f"--data {data}: lacks {lacking}; fetch them with the commands above")
