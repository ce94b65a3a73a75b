"""Say below a table what its numbers alone do not: which row is best, what is missing, which prompts were short."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.evaluation.conditions import PLAIN_CONTEXT
from nanotron_zagreus.evaluation.results import TaskResult

if TYPE_CHECKING:
    from nanotron_zagreus.evaluation.progression import Row, Table


def limit_note(results: Sequence[TaskResult]) -> list[str]:
    """Say that the scores come from a few documents only; one table's results share one limit."""
    limit = results[0].conditions.limit if results else None
    if limit is None:
        return []
    share = f"{100 * limit:g} % of the documents" if limit < 1 else f"{limit:g} document{'' if limit == 1 else 's'}"
    return [f"a trial: the first {share} of every task, not the whole of it"]


def best_note(table: Table) -> list[str]:
    """Say which row is best, and how many others may be just as good.

    Errors are taken as independent, which overstates the noise between models that answered the same documents.
    """
    best = table.best
    others = [row for row in table.rows if row.complete and row.average and not row.published and row is not best]
    if best is None or best.average is None or not others:
        return []
    text = f"best: {best.title} with an average of {best.average.value:.4f}"
    behind = sorted((_lead(best, row) for row in others), key=lambda lead: lead.points)
    if any(lead.error is None for lead in behind):
        return [f"{text} (standard errors unknown, so whether it leads cannot be said)"]
    near = [lead for lead in behind if lead.error is not None and lead.points < 2 * lead.error]
    if near:
        first = f"{near[0].title} ({near[0].points:.4f} ± {near[0].error:.4f} behind)"
        rest = f" and {len(near) - 1} more are" if len(near) > 1 else " is"
        text += f"; within noise: {first}{rest} less than two standard errors behind"
    return [text]


@dataclass(frozen=True, kw_only=True)
class _Lead:
    """How far a row is behind the best one, and the standard error of that, where known."""

    title: str
    points: float
    error: float | None


def _lead(best: Row, other: Row) -> _Lead:
    assert best.average is not None and other.average is not None  # the caller chose rows with an average
    errors = best.average.error, other.average.error
    error = None if None in errors else math.hypot(*(error for error in errors if error is not None))
    return _Lead(title=other.title, points=best.average.value - other.average.value, error=error)


def missing_note(table: Table) -> list[str]:
    partial = [row for row in table.rows if not row.complete]
    if not partial or not table.has_average:
        return []
    return [f"incomplete, averaged over what is there and never best: {', '.join(row.title for row in partial)}"]


def shot_notes(results: Sequence[TaskResult]) -> tuple[str, ...]:
    """Tell which scores were measured with fewer shots than asked because the prompts did not fit."""
    models: dict[str, int] = defaultdict(int)
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in sorted(results, key=lambda result: (result.step is None, result.step or 0, result.label)):
        models[result.task] += 1
        shortage = _shortage(result.shots or {})
        if shortage:
            labels[result.task, shortage].append(result.label)
    return tuple(
        f"{task}: {text} ({'all models' if len(names) == models[task] > 1 else ', '.join(names)})"
        for (task, text), names in labels.items()
    )


def context_notes(results: Sequence[TaskResult]) -> list[str]:
    """Tell which scores come from the plain command beside others, whose long prompts lost whole shots."""
    plain: dict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.conditions.context == PLAIN_CONTEXT:
            plain[result.task].append(result.label)
    mixed = {result.task for result in results if result.conditions.context not in (PLAIN_CONTEXT, None)}
    return [
        f"{task}: {', '.join(labels)} by the plain lm-eval command, which cuts a prompt that is too long where the "
        "others lose whole shots"
        for task, labels in plain.items()
        if task in mixed
    ]


def _shortage(shots: Mapping[str, Any]) -> str:
    texts = []
    if shots.get("shortened"):
        texts.append(f"{shots['kept'] / shots['documents']:.1f} of {shots['asked']} shots fitted on average")
    if shots.get("cut"):
        texts.append(f"{shots['cut']} of {shots['documents']} documents cut")
    return ", ".join(texts)
