"""Leave a run's outcome behind, from the first moment that something can fail to the last."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from nanotron_zagreus.checkpoints.outcome import Outcome, record_failure, write_outcome


@contextlib.contextmanager
def recorded_start(root: Path, *, step: int, checkpoint: Path | None, rank: int, is_leader: bool) -> Iterator[None]:
    """Say that a run is under way while the context is open, and on which rank it failed if it does.

    Args:
        root: the checkpoints folder.
        step: the last finished step.
        checkpoint: the one to go on from.
        rank: this rank.
        is_leader: whether this rank writes for its folder.
    """
    newest = None if checkpoint is None else str(checkpoint)
    if is_leader:
        running = Outcome(why="running", step=step, checkpoint=newest)
        write_as_possible(write_outcome, root, running)
    try:
        yield
    except Exception as error:
        reason = f"rank {rank}: {type(error).__name__}: {error}"
        failed = Outcome(why="failed", step=step, checkpoint=newest, reason=reason)
        write_as_possible(record_failure, root, failed)
        raise


def write_as_possible(write: Callable[[Path, Outcome], None], root: Path, outcome: Outcome) -> None:
    """Run ``write``; a full disk must not hide why the run ends."""
    try:
        write(root, outcome)
    except OSError as error:
        print(f"zagreus: {root}: the outcome ({outcome.why}) cannot be written: {error}", file=sys.stderr)
