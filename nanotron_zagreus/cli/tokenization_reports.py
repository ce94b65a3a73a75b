"""What `zagreus tokenize` prints: outcomes, progress, and the bar while it works."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanotron_zagreus.data.tokenization import TokenizationOutcome


def print_outcome(output: Path, outcome: TokenizationOutcome) -> None:
    """Print one line about a source, and a line for every reason why tasks encoded with tokenizers."""
    encoders = " and ".join(outcome.encoders) or "nothing"
    empty = f" ({outcome.empty:,} empty ones left out)" if outcome.empty else ""
    unread = f", {outcome.failures:,} left out because they cannot be read" if outcome.failures else ""
    print(
        f"{output}: {outcome.num_complete} of {outcome.num_tasks} tasks, {outcome.documents:,} documents{empty}, "
        f"{outcome.tokens:,} tokens{unread}, with {encoders}"
        + "".join(f"; tokenizers because {reason}" for reason in outcome.fallbacks)
    )
    for mismatch in outcome.mismatches:
        print(f"  a task gave up the fast encoder: {mismatch}")


def print_status(folders: Sequence[Path], *, as_json: bool) -> None:
    """Print how far the tokenizations in ``folders`` are."""
    from dataclasses import asdict

    from nanotron_zagreus.data.progress import read_progress

    rows = [read_progress(folder) for folder in folders]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        share = f", {row.bytes_read / row.bytes_total:.1%} of the input read" if row.bytes_total else ""
        left_out = f", {row.failures:,} left out because they cannot be read" if row.failures else ""
        jobs = f"; job {', '.join(row.active_jobs)} queued or running" if row.active_jobs else ""
        print(
            f"{row.output}: {row.num_complete} of {row.num_tasks} tasks, {row.documents:,} documents, "
            f"{row.tokens:,} tokens{share}{left_out}{jobs}"
        )


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many bytes of the input are read; on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(line, completed=done, total=total or None)
