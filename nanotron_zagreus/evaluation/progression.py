"""Build the table of models x tasks from results: averages, missing cells, the best row, what may be compared.

Renders nothing; see :mod:`rendering` and :mod:`plots`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.comparability import refuse_mixed, refuse_mixed_weights
from nanotron_zagreus.evaluation.results import TaskResult
from nanotron_zagreus.evaluation.suites import Column, find_suite, suite_names
from nanotron_zagreus.evaluation.table_notes import best_note, context_notes, limit_note, missing_note, shot_notes

# The metric to print for a task that belongs to no suite: the first of these that it has.
_METRICS = ("acc_norm", "acc", "f1_macro", "f1", "exact_match", "pearson", "bits_per_byte", "word_perplexity")
_LOWER_IS_BETTER = frozenset({"bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity", "mse"})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score."""

    value: float
    error: float | None = None
    """Standard error, where known."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model."""

    label: str
    cells: tuple[Cell | None, ...]
    """A score per column; None where it is missing."""
    average: Cell | None
    """Mean of the scores that are there; None when the table has no average or the row no score."""
    step: int | None = None
    tokens: int | None = None
    published: bool = False
    """Taken from published material, not measured here."""

    @property
    def complete(self) -> bool:
        """Say whether no score is missing."""
        return None not in self.cells

    @property
    def title(self) -> str:
        """Return the row's heading: 153k for a checkpoint called 153000."""
        if self.step and self.step % 1000 == 0 and self.label == str(self.step):
            return f"{self.step // 1000}k"
        return self.label


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows under one set of columns."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    has_average: bool
    notes: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """Return the complete row, measured here, with the highest average."""
        complete = [row for row in self.rows if row.complete and row.average and not row.published]
        return max(complete, key=lambda row: row.average.value if row.average else -math.inf, default=None)


def build_tables(
    results: Sequence[TaskResult],
    suite: str | None = None,
    published: Callable[[str], Sequence[Row]] | None = None,
    tokens_per_step: int = 0,
) -> list[Table]:
    """Return a table for every suite that has results, and one for the tasks of no suite.

    Args:
        results: the newest result per (model, task).
        suite: only this suite.
        published: gives the rows to set below the measured ones, by the suite's name; None for none.
        tokens_per_step: to fill in the tokens of rows that know only their step; 0 leaves them open.

    Raises:
        InputError: results that may not stand in one table, or none at all.
    """
    names = [suite] if suite else suite_names()
    tables: list[Table] = []
    of_suites: set[str] = set()
    for name in names:
        columns = find_suite(name).columns
        chosen = [result for result in results if result.task in {column.task for column in columns}]
        of_suites.update(result.task for result in chosen)
        rows = published(name) if published and (chosen or suite) else ()
        if chosen or rows:
            tables.append(_table(name, columns, chosen, rows, tokens_per_step))
    rest = [result for result in results if result.task not in of_suites]
    if rest and not suite:
        tables.append(_table("tasks", _columns_of(rest), rest, (), tokens_per_step))
    if not tables:
        raise InputError(f"no results{f' of the suite {suite}' if suite else ''} to show; run `zagreus evaluate` first")
    return tables


def lower_is_better(metric: str) -> bool:
    """Say whether a smaller value of ``metric`` is the better one."""
    return metric in _LOWER_IS_BETTER


def _table(
    name: str,
    columns: tuple[Column, ...],
    results: Sequence[TaskResult],
    published: Sequence[Row],
    tokens_per_step: int,
) -> Table:
    refuse_mixed(results)
    by_label: dict[str, list[TaskResult]] = defaultdict(list)
    for result in results:
        by_label[result.label].append(result)
    has_average = len(columns) > 1 and not any(lower_is_better(column.metric) for column in columns)
    rows = [_row(label, columns, found, has_average, tokens_per_step) for label, found in by_label.items()]
    rows.sort(key=lambda row: (row.step is None, row.step or 0, row.label))
    table = Table(name=name, columns=columns, rows=(*rows, *published), has_average=has_average, notes=())
    of_rows, of_prompts = (*best_note(table), *missing_note(table)), (*shot_notes(results), *context_notes(results))
    return replace(table, notes=(*limit_note(results), *of_rows, *of_prompts))


def _row(
    label: str, columns: tuple[Column, ...], results: Sequence[TaskResult], has_average: bool, tokens_per_step: int
) -> Row:
    refuse_mixed_weights(label, results)
    by_task = {result.task: result for result in results}
    cells = tuple(_cell(by_task.get(column.task), column) for column in columns)
    step = next((result.step for result in results if result.step is not None), None)
    tokens = next((result.tokens for result in results if result.tokens is not None), None)
    if tokens is None and step is not None and tokens_per_step:
        tokens = step * tokens_per_step
    average = average_of(cells) if has_average else None
    return Row(label=label, cells=cells, average=average, step=step, tokens=tokens)


def _cell(result: TaskResult | None, column: Column) -> Cell | None:
    if result is None:
        return None
    if column.metric not in result.scores:
        raise InputError(
            f"{result.path}: has no number as metric {column.metric!r} for {result.task} (it has "
            f"{', '.join(result.scores) or 'none'}); evaluate that task again, or, where it stays NaN because the "
            "model diverged, move the file away"
        )
    return Cell(value=result.scores[column.metric], error=result.errors.get(column.metric))


def average_of(cells: Sequence[Cell | None]) -> Cell | None:
    """Return the mean of the scores present; its error is that of a mean of independent measurements."""
    present = [cell for cell in cells if cell is not None]
    if not present:
        return None
    value = math.fsum(cell.value for cell in present) / len(present)
    errors = [cell.error for cell in present]
    if any(error is None for error in errors):
        return Cell(value=value)
    return Cell(
        value=value, error=math.sqrt(math.fsum(error**2 for error in errors if error is not None)) / len(present)
    )


def _columns_of(results: Sequence[TaskResult]) -> tuple[Column, ...]:
    columns: dict[str, Column] = {}
    for result in results:
        metric = next((metric for metric in _METRICS if metric in result.scores), next(iter(result.scores), None))
        if metric is not None and result.task not in columns:
            columns[result.task] = Column(task=result.task, metric=metric, title=f"{result.task} ({metric})")
    return tuple(columns[task] for task in sorted(columns))
