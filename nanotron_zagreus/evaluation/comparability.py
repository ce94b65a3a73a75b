"""Refuse to set scores side by side that were not measured in the same way, or not on the same weights."""

from __future__ import annotations

from collections.abc import Sequence

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.results import Conditions, TaskResult


def refuse_mixed(results: Sequence[TaskResult]) -> None:
    """Refuse results of one task that were measured in different ways."""
    first: dict[str, TaskResult] = {}
    for result in results:
        other = first.setdefault(result.task, result)
        difference = _difference(other.conditions, result.conditions)
        if not difference and other.num_documents != result.num_documents:
            difference = f"{other.num_documents} documents against {result.num_documents}"
        if not difference and other.documents and result.documents and other.documents != result.documents:
            difference = f"other documents, {other.documents} against {result.documents}"
        if difference:
            raise InputError(
                f"{result.task}: {other.label} and {result.label} were measured differently ({difference}) and cannot "
                f"stand in one table; evaluate one of them again, or move {result.path} away"
            )


def refuse_mixed_weights(label: str, results: Sequence[TaskResult]) -> None:
    """Refuse results of one model that were measured on different weights."""
    prints = {result.fingerprint for result in results}
    if len(prints) > 1:
        raise InputError(
            f"{label}: its results come from different weights ({', '.join(sorted(map(str, prints)))}); "
            "evaluate again with --replace, or move the older files away"
        )


def _difference(one: Conditions, other: Conditions) -> str:
    names = {"num_fewshot": "shots", "version": "task version", "limit": "limit", "chat_template": "chat template"}
    return ", ".join(
        f"{title} {getattr(one, name)} against {getattr(other, name)}"
        for name, title in names.items()
        if getattr(one, name) != getattr(other, name)
    )
