"""From what a user asked for to outcomes: check it whole, make every model a Hugging Face folder, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.batching import check_batch_size, check_dtype, choose_device
from nanotron_zagreus.evaluation.extras import require
from nanotron_zagreus.evaluation.model_folders import fetch_hub_models
from nanotron_zagreus.evaluation.planning import Settings
from nanotron_zagreus.evaluation.runner import TaskOutcome, evaluate_subjects
from nanotron_zagreus.evaluation.subjects import find_subjects
from nanotron_zagreus.evaluation.suites import find_suite
from nanotron_zagreus.evaluation.task_set import TaskSet
from nanotron_zagreus.evaluation.task_sources import index_tasks, task_names


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest(Settings):
    """One `zagreus evaluate`: which models, which tasks, how, and where the results go."""

    paths: tuple[str, ...]
    output: Path
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    include_paths: tuple[Path, ...] = ()
    num_fewshot: int | None = None
    """Shots for ``tasks``; those of a suite are the suite's."""


def run_request(
    request: EvaluationRequest, report: Callable[[TaskOutcome], None] = lambda outcome: None
) -> list[TaskOutcome]:
    """Evaluate what ``request`` asks for and return the outcome of every (model, task).

    Raises:
        InputError: anything in the request that cannot work, found before a model is loaded.
    """
    _check(request)
    subjects = fetch_hub_models(find_subjects(request.paths))  # before the tasks, whose index can take long
    tasks = find_tasks(request)
    request.output.mkdir(parents=True, exist_ok=True)
    return evaluate_subjects(subjects, tasks, request.output, report)


def prepare(request: EvaluationRequest) -> TaskSet:
    """Return the tasks of ``request``, all loaded, before any model is there.

    Raises:
        InputError: anything in the request that cannot work, its paths aside.
    """
    tasks = find_tasks(request)
    if request.tokenizer:
        from nanotron_zagreus.conversion.tokenizer_files import find_tokenizer

        find_tokenizer(request.tokenizer)
    tasks.load(tasks.names)
    request.output.mkdir(parents=True, exist_ok=True)
    return tasks


def find_tasks(request: EvaluationRequest) -> TaskSet:
    """Return the tasks that ``request`` asks for, none loaded yet; its paths are not looked at.

    Raises:
        InputError: anything else in the request that cannot work.
    """
    _check(request)
    columns = find_suite(request.suite).columns if request.suite else ()
    asked = [*(column.task for column in columns), *request.tasks]
    manager = index_tasks(asked, request.include_paths)
    names = task_names(manager, asked)
    shots = dict.fromkeys(task_names(manager, request.tasks), request.num_fewshot) if request.tasks else {}
    shots |= {column.task: column.num_fewshot for column in columns}
    return TaskSet(manager, names, {name: number for name, number in shots.items() if number is not None}, request)


def _check(request: EvaluationRequest) -> None:
    require("lm_eval", "evaluation")
    if not request.suite and not request.tasks:
        raise InputError("neither --suite nor --tasks: say what to evaluate, as in --suite progression-por")
    if request.suite:
        find_suite(request.suite)
    if request.limit is not None and not (0 < request.limit < 1 or request.limit == int(request.limit) > 0):
        raise InputError(f"--limit {request.limit}: a whole number of documents, or a fraction between 0 and 1")
    if request.num_fewshot is not None and request.num_fewshot < 0:
        raise InputError(f"--num-fewshot {request.num_fewshot}: a number of shots, 0 or more")
    if request.num_fewshot is not None and not request.tasks:
        raise InputError(
            f"--num-fewshot {request.num_fewshot}: is for the tasks of --tasks, and none is named; a suite's shots "
            "are fixed, so name its tasks one by one (--tasks m_mmlu_pt,arc_pt) to change them"
        )
    if request.data is not None and not request.data.is_dir():
        raise InputError(f"--data {request.data}: no such folder; `zagreus eval-data` says what belongs into it")
    if request.output.exists() and not request.output.is_dir():
        raise InputError(f"--output {request.output}: is a file; give a folder")
    check_batch_size(request.batch_size)
    check_dtype(request.dtype)
    choose_device(request.device)
