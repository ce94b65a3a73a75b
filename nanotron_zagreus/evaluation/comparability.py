"""Refuse to set scores side by side that were not measured in the same way, or not on the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation import leaderboard_rules
from nanotron_zagreus.evaluation.conditions import Conditions
from nanotron_zagreus.evaluation.results import TaskResult

# What must agree between any two scores of a table, by how an error calls it ...
_OF_A_TABLE = {"limit": "limit", "chat_template": "chat template", "dtypes": "dtype"}
# ... and between two scores of one task.
_OF_A_TASK = {
    **{"num_fewshot": "shots", "version": "task version", "context": "room for prompts and answers"},
    **_OF_A_TABLE,
}
_LEADERBOARD = leaderboard_rules.NAME


def refuse_mixed(results: Sequence[TaskResult]) -> None:
    """Refuse results that were measured in different ways: each task by itself, then all of them together."""
    first: dict[str, TaskResult] = {}
    for result in results:
        other = first.setdefault(result.task, result)
        difference = difference_of(other.conditions, result.conditions) or _other_documents(other, result)
        if difference:
            raise InputError(
                f"{result.task}: {other.label} and {result.label} were measured differently ({difference}) and cannot "
                f"stand in one table; {_way_out(other, result)}"
            )
    for result in results:
        other = results[0]
        difference = _difference(other.conditions, result.conditions, _OF_A_TABLE)
        if difference:
            raise InputError(
                f"{other.label} on {other.task} and {result.label} on {result.task} were measured differently "
                f"({difference}) and cannot go into one average; {_way_out(other, result)}"
            )


def refuse_mixed_weights(label: str, results: Sequence[TaskResult]) -> None:
    """Refuse results of one model that were measured on different files of it."""
    prints = {result.fingerprint for result in results}
    if len(prints) > 1:
        # The plain command does not say which files it read, so no evaluation of ours takes its results for replaced.
        unnamed = sorted({str(result.path) for result in results if result.fingerprint is None})
        older = f"move those of the other program away: {', '.join(unnamed)}"
        raise InputError(
            f"{label}: its results come from different files of it ({', '.join(sorted(map(str, prints)))}: other "
            "weights, configuration or tokenizer, or another program); "
            + (older if unnamed else "evaluate again with --replace, or move the older results away")
        )


def difference_of(one: Conditions, other: Conditions) -> str:
    """Return in words what keeps two scores of one task apart; nothing when they are comparable."""
    return _difference(one, other, _OF_A_TASK)


def _difference(one: Conditions, other: Conditions, names: Mapping[str, str]) -> str:
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in names)
    return ", ".join(
        f"{names[name]} {_text(value)} against {_text(its)}"
        for name, value, its in pairs
        if not _agree(name, value, its)
    )


def _agree(name: str, one: Any, other: Any) -> bool:
    if name == "dtypes":
        return not one or not other or bool(one & other)
    if name == "context":
        # Outside the leaderboard's tasks rules differ only for prompts that are too long; a note tells of them.
        return one == other or None in (one, other) or _LEADERBOARD not in (one, other)
    return bool(one == other)


def _text(value: Any) -> str:
    return "/".join(sorted(value)) if isinstance(value, frozenset) else str(value)


def _other_documents(one: TaskResult, other: TaskResult) -> str:
    if one.num_documents != other.num_documents:
        return f"{one.num_documents} documents against {other.num_documents}"
    if one.documents and other.documents and one.documents != other.documents:
        return f"other documents, {one.documents} against {other.documents}"
    return ""


def _way_out(one: TaskResult, other: TaskResult) -> str:
    """Return what to do about the two; a trial on a few documents is the one to go."""
    is_trial = one.conditions.limit is not None and other.conditions.limit is None
    return f"evaluate one of them again, or move {(one if is_trial else other).path} away"
