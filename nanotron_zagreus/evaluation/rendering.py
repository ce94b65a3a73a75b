"""Write tables for people and for scripts: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.progression import Cell, Row, Table, lower_is_better

if TYPE_CHECKING:
    from rich.console import Group

FORMATS = ("table", "markdown", "csv", "json")

_MISSING = "–"
_MOST_COLUMNS_UNBROKEN = 4


def check_format(name: str) -> None:
    """Refuse a format that tables are not written in."""
    if name not in FORMATS:
        raise InputError(f"--format {name}: unknown; choose one of {', '.join(FORMATS)}")


def as_markdown(table: Table) -> str:
    """Return the table as the model card prints it, with standard errors, the best row in bold."""
    lines = [_markdown_line(_headings(table)), _markdown_line(["---"] * len(_headings(table)))]
    for row in table.rows:
        texts = _texts(table, row)
        lines.append(_markdown_line([f"**{text}**" for text in texts] if row is table.best else texts))
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def as_csv(table: Table) -> str:
    """Return the table with one line per model and full precision, missing cells empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    titles = [column.title for column in table.columns] + (["Average"] if table.has_average else [])
    pairs = [name for title in titles for name in (title, f"{title} stderr")]
    writer.writerow(["model", "step", "tokens", "published", *pairs])
    for row in table.rows:
        cells = [*row.cells, *([row.average] if table.has_average else [])]
        numbers = [number for cell in cells for number in ((cell.value, cell.error) if cell else (None, None))]
        writer.writerow([row.label, row.step, row.tokens, row.published, *numbers])
    return stream.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """Return the tables with everything they know."""
    data = [{**asdict(table), "best": table.best.label if table.best else None} for table in tables]
    return json.dumps(data, ensure_ascii=False, indent=2)


def as_rich(table: Table) -> Group:
    """Return the table and its notes for a terminal; errors below the scores, so that eleven columns fit into 80."""
    import rich.box
    import rich.table
    from rich.console import Group
    from rich.text import Text

    is_wide = len(table.columns) > _MOST_COLUMNS_UNBROKEN
    drawn = rich.table.Table(
        title=table.name, box=rich.box.SIMPLE_HEAD, padding=0 if is_wide else (0, 1), pad_edge=False
    )
    for index, title in enumerate(_headings(table)):
        # Broken where it may be: an unbroken heading would claim the width that the scores need.
        heading = ("Avg." if title == "Average" else title.replace(" ", "\n")) if is_wide else title
        drawn.add_column(
            heading,
            justify="right" if index else "left",
            no_wrap=not index,
            min_width=6,
            overflow="fold",
        )
    for row in table.rows:
        style = "bold" if row is table.best else "dim" if row.published else None
        drawn.add_row(*(text.replace(" ± 0.", "\n±.") for text in _texts(table, row)), style=style)
    return Group(drawn, *(Text(note) for note in table.notes))


def _headings(table: Table) -> list[str]:
    arrows = ["↓" if lower_is_better(column.metric) else "↑" for column in table.columns]
    headings = ["Model", *(f"{column.title} {arrow}" for column, arrow in zip(table.columns, arrows, strict=True))]
    return [*headings, "Average"] if table.has_average else headings


def _texts(table: Table, row: Row) -> list[str]:
    name = f"{row.title} (published)" if row.published else row.title
    average = [_text(row.average) + ("" if row.complete else " *")] if table.has_average else []
    return [name, *map(_text, row.cells), *average]


def _text(cell: Cell | None) -> str:
    if cell is None:
        return _MISSING
    return f"{cell.value:.4f}" + (f" ± {cell.error:.4f}" if cell.error is not None else "")


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
