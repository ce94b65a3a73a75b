"""Follow a running training: evaluate each checkpoint as it appears, until the training says that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.requests import EvaluationRequest, run_request
from nanotron_zagreus.evaluation.runner import Outcome
from nanotron_zagreus.evaluation.subjects import is_checkpoint


def follow_training(
    checkpoints: Path,
    request: EvaluationRequest,
    show: Callable[[], None],
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
    interval_seconds: float = 30.0,
) -> list[Outcome]:
    """Evaluate every checkpoint under ``checkpoints``, waiting for more until the training has finished.

    Args:
        checkpoints: the training's folder of checkpoints; it may still be empty.
        request: what to evaluate; its paths are ignored.
        show: called after each round that evaluated something.
        report: called with each outcome as it is known.
        interval_seconds: time between two looks.

    Returns:
        All outcomes; one that failed is not tried again.
    """
    if not checkpoints.is_dir():
        raise InputError(f"--watch {checkpoints}: no such folder; give the training's checkpoints_path")
    outcomes: list[Outcome] = []
    seen: set[str] = set()
    while True:
        # Asked before looking: what was saved before the end was announced is then surely seen.
        ended = read_outcome(checkpoints)
        new = [path for path in _complete(checkpoints) if path.name not in seen]
        if new:
            seen.update(path.name for path in new)
            outcomes += run_request(replace(request, paths=tuple(map(str, new))), report)
            show()
        elif ended is not None and ended.why in ("finished", "failed"):
            return outcomes
        else:
            time.sleep(interval_seconds)


def _complete(checkpoints: Path) -> list[Path]:
    """Return the whole checkpoints by step; those being written have hidden names or no metadata yet."""
    paths = [path for path in checkpoints.iterdir() if path.name.isdigit() and is_checkpoint(path)]
    return sorted(paths, key=lambda path: int(path.name))
