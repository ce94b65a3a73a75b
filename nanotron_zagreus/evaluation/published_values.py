"""Read the scores that model cards print, as rows to set beside measured ones."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from nanotron_zagreus.evaluation.progression import Cell, Row

_FOLDER = Path(__file__).resolve().parent / "published"


def published_rows(suite: str) -> tuple[Row, ...]:
    """Return the published rows of ``suite``, none for a suite without published scores.

    Averages are the printed ones; they may differ in the last digit from the mean of the printed scores.
    """
    return tuple(
        _row(row, values["tokens_per_step"])
        for source in _sources()
        for name, values in source["suites"].items()
        if name == suite
        for row in values["rows"]
    )


def _row(row: dict[str, Any], tokens_per_step: int) -> Row:
    step = row["step"]
    return Row(
        label=row["label"],
        cells=tuple(Cell(value=score) for score in row["scores"]),
        average=Cell(value=row["average"]),
        step=step,
        tokens=step * tokens_per_step if step else None,
        published=True,
    )


@functools.cache
def _sources() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.yaml")))
