"""Draw scores over training: one panel per column, each on its own scale, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.extras import require
from nanotron_zagreus.evaluation.progression import Cell, Row, Table, lower_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")
_MEASURED = "#0072b2"  # Okabe and Ito's palette, told apart by colour-blind readers
_PUBLISHED = "#d55e00"
_REFERENCE = "#767676"
_PANEL_INCHES = (3.4, 2.5)
_MOST_PANELS_IN_ONE_ROW = 3
_AXIS_TITLES = {None: "", "step": "optimizer steps", "tokens": "tokens (steps of these runs differ in tokens)"}

Axis = Literal["step", "tokens"]
"""What models stand at along a panel: a field of their row."""


def draw_tables(tables: Sequence[Table], path: Path) -> list[Path]:
    """Write one figure per table, ``path`` itself or with the table's name added when there are several; return them.

    Raises:
        InputError: an ending other than .png, .svg or .pdf.
        MissingInputError: matplotlib is not installed.
    """
    check_plot_path(path)
    targets = [path.with_name(f"{path.stem}-{table.name}{path.suffix}") for table in tables]
    targets = [path] if len(tables) == 1 else targets
    for table, target in zip(tables, targets, strict=True):
        _draw(table, target)
    return targets


def check_plot_path(path: Path) -> None:
    """Refuse a plot that could not be drawn, before any work."""
    require("matplotlib", "--plot")
    if path.suffix not in _FORMATS:
        raise InputError(f"--plot {path}: the ending says the format; use one of {', '.join(_FORMATS)}")


def panel_grid(num_panels: int) -> tuple[int, int]:
    """Return (rows, columns) for ``num_panels``: one row while it stays readable, two beyond."""
    num_rows = 1 if num_panels <= _MOST_PANELS_IN_ONE_ROW else 2
    return num_rows, math.ceil(num_panels / num_rows)


def choose_axis(rows: Sequence[Row]) -> tuple[Axis | None, float | None]:
    """Return what to draw scores over, and tokens per step where a second axis may show tokens beside steps.

    Steps, as people name their checkpoints; tokens where a step means different amounts of them and every
    model with a step knows its tokens; nothing where no model knows its step.
    """
    stepped = [row for row in rows if row.step is not None]
    ratios = {round(row.tokens / row.step) for row in stepped if row.tokens and row.step}
    if not stepped:
        return None, None
    if len(ratios) > 1 and all(row.tokens is not None for row in stepped):
        return "tokens", None
    return "step", ratios.pop() if len(ratios) == 1 else None


def _draw(table: Table, path: Path) -> None:
    from matplotlib.figure import Figure

    titles = [column.title for column in table.columns] + (["Average"] if table.has_average else [])
    num_rows, num_columns = panel_grid(len(titles))
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * num_columns, height * num_rows + 0.9), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True).flatten()
    axis, tokens_per_step = choose_axis(table.rows)
    for index, (title, axes) in enumerate(zip(titles, panels, strict=False)):
        lower = index < len(table.columns) and lower_is_better(table.columns[index].metric)
        axes.set_title(f"{title} {'↓' if lower else '↑'}", fontsize=10)
        _draw_panel(axes, table, index, axis)
        if index + num_columns >= len(titles):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(_AXIS_TITLES[axis], fontsize=9)
    for axes in panels[len(titles) :]:
        axes.remove()
    if tokens_per_step:
        for axes in panels[: min(num_columns, len(titles))]:
            _add_token_axis(axes, tokens_per_step)
    _describe(figure, table, _legend(list(panels[: len(titles)])))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _describe(figure: Figure, table: Table, legend: tuple[list[Any], list[str]]) -> None:
    has_errors = any(cell and cell.error is not None for row in table.rows for cell in row.cells)
    figure.suptitle(f"{table.name}{': scores ± one standard error' if has_errors else ''}", fontsize=11)
    handles, labels = legend
    if len(handles) > 1 or labels == ["published"]:
        columns = min(4, len(handles))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _draw_panel(axes: Axes, table: Table, index: int, axis: Axis | None) -> None:
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if axis is None:
        _draw_by_name(axes, table, index)
        return
    axes.xaxis.set_major_formatter(_short_number)
    for published, colour, style, name in (
        (False, _MEASURED, "-", "measured"),
        (True, _PUBLISHED, "--", "published"),
    ):
        rows = [row for row in table.rows if row.published == published and row.step is not None]
        points = [(getattr(row, axis), cell) for row in rows if (cell := _cell(row, index))]
        if points:
            _draw_line(axes, [place for place, _ in points], [cell for _, cell in points], colour, style, name)
    for row in table.rows:
        cell = _cell(row, index)
        if row.step is None and cell is not None:
            label = f"{row.label}{' (published)' if row.published else ''}"
            axes.axhline(cell.value, color=_REFERENCE, linewidth=1, linestyle=":", label=label)


def _draw_line(axes: Axes, steps: Sequence[Any], cells: Sequence[Cell], colour: str, style: str, name: str) -> None:
    values = [cell.value for cell in cells]
    axes.plot(steps, values, style, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=name)
    if all(cell.error is not None for cell in cells):
        errors = [cell.error or 0.0 for cell in cells]
        lower = [value - error for value, error in zip(values, errors, strict=True)]
        upper = [value + error for value, error in zip(values, errors, strict=True)]
        if len(steps) > 1:
            axes.fill_between(steps, lower, upper, color=colour, alpha=0.15, linewidth=0)
        else:
            axes.errorbar(steps, values, yerr=errors, color=colour, capsize=3, linewidth=1)


def _draw_by_name(axes: Axes, table: Table, index: int) -> None:
    """Draw models without steps side by side."""
    for position, row in enumerate(table.rows):
        cell = _cell(row, index)
        if cell is not None:
            colour = _PUBLISHED if row.published else _MEASURED
            axes.errorbar([position], [cell.value], yerr=[cell.error or 0.0], fmt="o", color=colour, capsize=3)
    axes.set_xticks(range(len(table.rows)), [row.title for row in table.rows], rotation=30, ha="right", fontsize=7)


def _cell(row: Row, index: int) -> Cell | None:
    return row.cells[index] if index < len(row.cells) else row.average


def _add_token_axis(axes: Axes, tokens_per_step: float) -> None:
    def tokens_of(steps: Any) -> Any:
        return steps * tokens_per_step

    def steps_of(tokens: Any) -> Any:
        return tokens / tokens_per_step

    axis = axes.secondary_xaxis("top", functions=(tokens_of, steps_of))
    axis.xaxis.set_major_formatter(_short_number)
    axis.tick_params(labelsize=7, colors=_REFERENCE)
    axis.set_xlabel("tokens", fontsize=7, color=_REFERENCE)


def _legend(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _short_number(value: float, _: float = 0.0) -> str:
    """Return 153k, 1.5M, 610B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
