"""Evaluate many models on many tasks in one process: tasks loaded once, results saved pair by pair.

What is already there is skipped, so an interrupted evaluation goes on where it stopped. A task that
fails costs only itself; the report says what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanotron_zagreus import __version__
from nanotron_zagreus.conversion.eval_scores import OWN_SECTION
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.leaderboard_rules import context_rule
from nanotron_zagreus.evaluation.model_folders import CONVERTED, forget_converted, hf_folder
from nanotron_zagreus.evaluation.planning import EvaluationPlan, Settings, make_plan
from nanotron_zagreus.evaluation.quiet import quiet_lm_eval
from nanotron_zagreus.evaluation.results import TaskResult, read_file, write_results
from nanotron_zagreus.evaluation.subjects import Subject

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

    from nanotron_zagreus.evaluation.language_model import ShotFittingLM
    from nanotron_zagreus.evaluation.task_set import TaskSet

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """What became of one (model, task)."""

    label: str
    task: str
    status: Status
    result: TaskResult | None = None
    error: str | None = None
    seconds: float = 0.0
    number: int = 0
    """Its place among all (model, task) of the request, from 1."""
    total: int = 0


def evaluate_subjects(
    subjects: Sequence[Subject],
    tasks: TaskSet,
    output: Path,
    report: Callable[[TaskOutcome], None] = lambda outcome: None,
) -> list[TaskOutcome]:
    """Evaluate every model on every task that ``output`` does not hold yet.

    Args:
        subjects: models, hub ids fetched.
        tasks: what to evaluate on, and how.
        output: folder of results, one folder per model in it.
        report: called with each outcome as it is known.

    Raises:
        InputError: data is missing, or ``output`` holds results of other files under a model's label.
    """
    plans = [make_plan(subject, tasks, output) for subject in subjects]
    outcomes: list[TaskOutcome] = []

    def note(outcome: TaskOutcome) -> None:
        outcomes.append(replace(outcome, number=len(outcomes) + 1, total=len(plans) * len(tasks.names)))
        report(outcomes[-1])

    loaded = tasks.load([name for name in tasks.names if any(name in plan.pending for plan in plans)])
    with quiet_lm_eval():
        for plan in plans:
            for result in plan.finished:
                note(TaskOutcome(label=plan.subject.label, task=result.task, status="skipped", result=result))
            for outcome in _evaluate(plan, loaded, output, tasks.settings):
                note(outcome)
    return outcomes


def _evaluate(
    plan: EvaluationPlan, tasks: dict[str, ConfigurableTask], output: Path, settings: Settings
) -> Iterator[TaskOutcome]:
    """Evaluate one model's pending tasks; the model is gone from memory at the end."""
    if not plan.pending:
        return
    label = plan.subject.label
    try:
        folder = hf_folder(plan.subject, output / CONVERTED, settings.tokenizer)
        model = _load_model(folder, settings)
    except Exception as error:
        text = f"the model could not be loaded: {type(error).__name__}: {error}"
        _forget(plan, output, settings)
        yield from (TaskOutcome(label=label, task=name, status="failed", error=text) for name in plan.pending)
        return
    try:
        for name in plan.pending:
            begin = time.monotonic()
            try:
                result = _evaluate_task(plan, model, tasks[name], output, settings)
                outcome = TaskOutcome(label=label, task=name, status="done", result=result)
            except Exception as error:
                logging.getLogger(__name__).debug("task %s failed", name, exc_info=True)
                outcome = TaskOutcome(label=label, task=name, status="failed", error=f"{type(error).__name__}: {error}")
            yield replace(outcome, seconds=time.monotonic() - begin)
    finally:
        del model
        _free_memory()
        _forget(plan, output, settings)


def _forget(plan: EvaluationPlan, output: Path, settings: Settings) -> None:
    """Delete the converted copy of the model unless it is to be kept for the next evaluation."""
    if not settings.keep_converted:
        forget_converted(plan.subject, output / CONVERTED)


def _evaluate_task(
    plan: EvaluationPlan, model: ShotFittingLM, task: ConfigurableTask, output: Path, settings: Settings
) -> TaskResult:
    """Evaluate one task, write its results file and return what it says."""
    from nanotron_zagreus.evaluation.task_run import run_task, tracker_of

    name, subject = task.task_name, plan.subject
    tracker = tracker_of(model, settings)
    results = run_task(model, task, settings)
    results[OWN_SECTION] = {
        "version": __version__,
        "label": subject.label,
        "source": subject.source,
        "fingerprint": plan.fingerprint,
        "step": subject.step,
        "tokens": subject.tokens,
        "chat_template": settings.apply_chat_template,
        "shots": {name: results.pop("shots")},
        "context": {name: context_rule(task.config.metadata)},
        "data": {name: plan.data[name]},
        "documents": {name: results.pop("documents")},
    }
    path = write_results(output / subject.label, results, keep_samples=settings.keep_samples, tracker=tracker)
    return next(result for result in read_file(path) if result.task == name)


def _load_model(folder: Path, settings: Settings) -> ShotFittingLM:
    from nanotron_zagreus.evaluation.batching import choose_batch_size, choose_device
    from nanotron_zagreus.evaluation.language_model import ShotFittingLM

    device = choose_device(settings.device)
    batch_size = choose_batch_size(settings.batch_size, device, folder)
    model = ShotFittingLM(pretrained=str(folder), device=device, dtype=settings.dtype, batch_size=batch_size)
    if settings.apply_chat_template and model.tokenizer.chat_template is None:
        raise InputError("--apply-chat-template: its tokenizer has no chat template; leave the option away")
    return model


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
