"""Read `logs/plan.json`, which says which files each task of a tokenization reads. `tokenization_plan` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanotron_zagreus.errors import InputError


def plan_path(folder: Path) -> Path:
    """Return where the plan of the tokenization into ``folder`` lies."""
    return folder / "logs" / "plan.json"


def read_plan(path: Path) -> dict[str, Any] | None:
    """Return the plan at ``path``; None where there is none.

    Raises:
        InputError: the file is there and is no plan; a machine that lost power may leave an empty one.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        is_plan = all(isinstance(entry[1], int) for task in plan["tasks"] for entry in task)
        problem = None if is_plan else "it has no size for a file"
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        raise InputError(
            f"{path}: not readable as a plan ({problem}); restore it, or remove it: without it the shards are taken as "
            "they are, and what is missing takes a tokenization into another folder"
        )
    return plan
