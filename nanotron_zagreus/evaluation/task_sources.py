"""Turn task names into lm-eval tasks: find their files, point them at local data, load them once.

Only features that lm-eval documents are used: an index over folders of YAML files, and wrapper files
that `include:` another. Scanning all of lm-eval's own tasks takes about twenty seconds, so the folders
that the suites need are scanned first and the rest only when a name was not found there.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.evaluation.extras import require
from nanotron_zagreus.evaluation.local_data import data_need, local_overrides
from nanotron_zagreus.evaluation.quiet import quiet_lm_eval
from nanotron_zagreus.hub_errors import first_line

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

TASKS_FOLDER = Path(__file__).resolve().parent / "tasks"
"""The task files of this package, for `lm-eval --include_path`."""


def index_tasks(names: Iterable[str], include_paths: Sequence[Path] = ()) -> TaskManager:
    """Return lm-eval's index over the folders in which ``names`` are found.

    Args:
        names: tasks, tags or groups.
        include_paths: folders of the user's own task files; they win over equal names elsewhere.

    Raises:
        InputError: an unknown name; the nearest known one is suggested.
    """
    require("lm_eval", "evaluation")
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    for folder in include_paths:
        if not folder.is_dir():
            raise InputError(f"--include-path {folder}: no such folder; give the one that holds the task's YAML file")
    okapi = Path(lm_eval.tasks.__file__).parent / "okapi"
    folders: list[str | Path] = [okapi, TASKS_FOLDER, *include_paths]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if all(name in manager.task_index for name in names):
        return manager
    with quiet_lm_eval():  # it warns of every task file of ours that wins over one of its own
        near = TaskManager(include_path=folders)
    for name in names:
        if name not in near.task_index:
            raise InputError(_unknown(name, near.all_tasks))
    return near


def task_names(manager: TaskManager, names: Iterable[str]) -> list[str]:
    """Return the single tasks that ``names`` stand for: tags and groups are expanded, each task once."""
    return list(dict.fromkeys(task for name in names for task in _expand(manager, name)))


def load_tasks(manager: TaskManager, names: Sequence[str], data: Path | None = None) -> dict[str, ConfigurableTask]:
    """Return the tasks with their data loaded.

    Args:
        manager: the index from :func:`index_tasks`.
        names: single tasks, from :func:`task_names`.
        data: folder with local copies of the data sets; None leaves lm-eval's own sources.

    Raises:
        MissingInputError: data that a task needs is not there.
    """
    from lm_eval.tasks import TaskManager

    overrides = {name: local_overrides(task_config(manager, name), data) for name in names}
    with tempfile.TemporaryDirectory(prefix="zagreus-tasks-") as folder:
        for name, values in overrides.items():
            path = manager.task_index[name].yaml_path
            wrapper: dict[str, Any] = {"include": str(Path(path).resolve()), "task": name, **values}
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(wrapper), encoding="utf-8")
        wrappers = TaskManager(include_path=[folder], include_defaults=False)
        return {name: _load(wrappers, name, task_config(manager, name)) for name in names}


def _load(manager: TaskManager, name: str, config: dict[str, Any]) -> ConfigurableTask:
    need = data_need(config)
    try:
        return manager.load([name])["tasks"][name]
    except InputError as error:
        raise InputError(f"task {name}: {error}") from error
    except OSError as error:  # also what `datasets` raises for data sets that it cannot find or reach
        advice = (
            f"put a copy into a folder and give it with --data (`{need.download_command}`; `zagreus eval-data` names "
            "all that a suite reads)"
            if need
            else "check it"
        )
        raise MissingInputError(f"task {name}: its data cannot be had ({first_line(error)}); {advice}") from error
    except Exception as error:
        if need and "scripts are no longer supported" in str(error):
            raise MissingInputError(
                f"task {name}: {need.dataset} is kept as a loading script, which `datasets` no longer runs; fetch the "
                f"hub's export of it and give the folder with --data: {need.export_command}"
            ) from error
        raise InputError(
            f"task {name}: its file {config['path']} does not fit its data ({type(error).__name__}: "
            f"{first_line(error)}); correct one of them, or leave the task out"
        ) from error


def task_config(manager: TaskManager, name: str) -> dict[str, Any]:
    """Return the task's file as a mapping, `include:` resolved, its own path under ``path``."""
    entry = manager.task_index[name]
    if entry.yaml_path is None or entry.cfg is None:
        raise InputError(f"task {name!r}: defined in code, not in a YAML file; only YAML tasks can be evaluated here")
    return {**entry.cfg, "path": entry.yaml_path}


def _expand(manager: TaskManager, name: str) -> list[str]:
    entry = manager.task_index[name]
    if name in manager.all_subtasks:
        return [name]
    if name in manager.all_tags:
        return sorted(entry.tags)
    members = (entry.cfg or {}).get("task") or []
    children = [member if isinstance(member, str) else str(member.get("task")) for member in members]
    unknown = [child for child in children if child not in manager.task_index]
    if unknown:
        raise InputError(f"group {name!r}: its member {unknown[0]!r} is defined inside it; name its tasks one by one")
    return [task for child in children for task in _expand(manager, child)]


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`lm-eval ls tasks` lists lm-eval's own"
    return f"task {name!r}: not known to lm-eval nor in --include-path; {advice}"
