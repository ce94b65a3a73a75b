"""Decide what is left to do for a model: what its folder of results holds already, and under which conditions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.comparability import difference_of
from nanotron_zagreus.evaluation.conditions import Conditions
from nanotron_zagreus.evaluation.leaderboard_rules import context_rule
from nanotron_zagreus.evaluation.local_data import data_fingerprint
from nanotron_zagreus.evaluation.model_folders import subject_fingerprint
from nanotron_zagreus.evaluation.results import (
    TaskResult,
    has_samples,
    newest_results,
    read_results,
    set_aside,
)
from nanotron_zagreus.evaluation.subjects import Subject
from nanotron_zagreus.evaluation.task_sources import task_config

if TYPE_CHECKING:
    from nanotron_zagreus.evaluation.task_set import TaskSet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to evaluate."""

    data: Path | None = None
    """Folder with local copies of the data sets."""
    limit: float | None = None
    """Documents per task, or their fraction below 1; None for all."""
    batch_size: str = "auto"
    """Requests per forward pass, or ``auto``."""
    device: str = "auto"
    dtype: str = "auto"
    """``auto`` takes the one that the model was saved in."""
    apply_chat_template: bool = False
    tokenizer: str | None = None
    """For checkpoints to convert, instead of the one their config names."""
    keep_converted: bool = True
    """Keep a checkpoint's Hugging Face folder for the next evaluation."""
    keep_samples: bool = False
    """Also write every document's prompt and answer."""
    again: bool = False
    """Evaluate also what the folder of results holds."""
    replace_old: bool = False
    """Set results of other model files aside instead of refusing."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is to be done for one model."""

    subject: Subject
    fingerprint: str
    data: dict[str, str | None]
    """Fingerprint of the plain files of every task, see data_fingerprint."""
    pending: tuple[str, ...]
    finished: tuple[TaskResult, ...]


def make_plan(subject: Subject, tasks: TaskSet, output: Path) -> EvaluationPlan:
    """Return what is left to do for ``subject``; refuse results of other files under its label."""
    settings, manager, names = tasks.settings, tasks.manager, tasks.names
    fingerprint = subject_fingerprint(subject, settings.tokenizer)
    folder = output / subject.label
    present = [result for result in read_results(folder) if result.fingerprint] if folder.is_dir() else []
    foreign = sorted({result.path for result in present if result.fingerprint != fingerprint})
    if foreign and not settings.replace_old:
        raise InputError(
            f"{foreign[0]}: holds results of other files (weights, configuration, tokenizer) than {subject.source} has "
            "now; a checkpoint and its converted folder are two models. Keep them apart in another results folder or "
            f"under another name (NAME={subject.source}), or let `zagreus evaluate --replace` set the old ones aside"
        )
    if foreign:
        set_aside(foreign)
    present = [result for result in present if result.fingerprint == fingerprint]
    prints = {name: data_fingerprint(task_config(manager, name), settings.data) for name in names}
    fitting = [
        result
        for result in present
        if not settings.again
        and result.task in names
        and not difference_of(result.conditions, current_conditions(tasks, result.task))
        and (has_samples(result) or not settings.keep_samples)
        # Data of the hub has no fingerprint and counts as the same as any copy of it.
        and (result.data is None or prints[result.task] is None or result.data == prints[result.task])
    ]
    finished = tuple(newest_results(fitting))
    done = {result.task for result in finished}
    pending = tuple(name for name in names if name not in done)
    return EvaluationPlan(subject=subject, fingerprint=fingerprint, data=prints, pending=pending, finished=finished)


def current_conditions(tasks: TaskSet, name: str) -> Conditions:
    """Return the conditions under which ``name`` would be evaluated now."""
    config, settings = task_config(tasks.manager, name), tasks.settings
    return Conditions(
        num_fewshot=tasks.shots.get(name, config.get("num_fewshot") or 0),
        version=str((config.get("metadata") or {}).get("version", "Yaml")),
        limit=settings.limit,
        chat_template=settings.apply_chat_template,
        dtypes=frozenset({settings.dtype}),
        context=context_rule(config.get("metadata")),
    )
