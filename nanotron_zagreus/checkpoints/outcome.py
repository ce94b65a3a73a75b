"""How a run ended, for scripts: torchrun hides the ranks' exit codes, so they decide by this file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nanotron_zagreus.checkpoints.layout import OUTCOME_FILE, replace_durably

Why = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The content of outcome.json."""

    why: Why
    """running: still at work, or died without a word; finished: all steps done; stopped: saved on request, run again
    to go on; failed: stopped by an error."""
    step: int
    """Last finished step; of a run that failed, the one it was at."""
    checkpoint: str | None
    """Newest checkpoint's folder; None: none was saved."""
    reason: str = ""
    """What asked for the stop, or the error."""


def write_outcome(root: Path, outcome: Outcome) -> None:
    """Write outcome.json, atomically."""
    root.mkdir(parents=True, exist_ok=True)
    replace_durably(root / OUTCOME_FILE, (json.dumps(asdict(outcome), indent=2) + "\n").encode())


def record_failure(root: Path, outcome: Outcome) -> None:
    """Write down why one rank fails, unless another has: the others fail only because the first one leaves.

    Raises:
        OSError: it cannot be written.
    """
    before = read_outcome(root)
    if before is None or before.why != "failed":
        write_outcome(root, outcome)


def read_outcome(root: Path) -> Outcome | None:
    """Return what outcome.json says; None when it is absent or unreadable."""
    try:
        return Outcome(**json.loads((root / OUTCOME_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
