"""Choose the examples that the Portuguese leaderboard shows: fixed ones, named by id, in a fixed order.

The lists stand in ``tasks/leaderboard_pt/examples.json`` with the column that holds the ids; null means the
row's number. The exams evaluate on the split their examples come from, so all listed examples, shown or
not, leave the evaluation there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    Selection = Callable[[Dataset], Dataset]

_LISTS = Path(__file__).resolve().parent / "tasks" / "leaderboard_pt" / "examples.json"


def listed_ids(name: str) -> list[Any]:
    """Return the ids of the list ``name``, in the order in which they are shown."""
    ids: list[Any] = _lists()[name]["ids"]
    return ids


@functools.cache
def _lists() -> dict[str, dict[str, Any]]:
    lists: dict[str, dict[str, Any]] = json.loads(_LISTS.read_text(encoding="utf-8"))
    return lists


def _examples(name: str) -> Selection:
    """Return a function that gives the rows of the list ``name``, in its order."""

    def select(rows: Dataset) -> Dataset:
        column, ids = _lists()[name]["column"], listed_ids(name)
        values = rows[column] if column else range(len(rows))
        positions: dict[Any, int] = {}
        for index, value in enumerate(values):
            positions.setdefault(value, index)  # of rows that share an id the leaderboard shows the first
        missing = [value for value in ids if value not in positions]
        if missing:
            raise InputError(
                f"the examples with {column or 'row number'} {', '.join(map(str, missing))} are missing from the "
                f"data's {len(rows)} rows; use the whole split, the leaderboard shows these very examples"
            )
        return rows.select([positions[value] for value in ids])

    return select


def _without(name: str) -> Selection:
    """Return a function that gives the rows that are not on the list ``name``."""

    def select(rows: Dataset) -> Dataset:
        listed = frozenset(listed_ids(name))
        return rows.select([index for index, value in enumerate(rows[_lists()[name]["column"]]) if value not in listed])

    return select


enem_examples = _examples("enem")
bluex_examples = _examples("bluex")
oab_examples = _examples("oab")
assin2_examples = _examples("assin2")
faquad_examples = _examples("faquad")
hatebr_examples = _examples("hatebr")
hate_speech_examples = _examples("hate_speech")

without_enem_examples = _without("enem")
without_bluex_examples = _without("bluex")
without_oab_examples = _without("oab")


def as_they_are(rows: Dataset) -> Dataset:
    """Return ``rows``: the first ones are the examples (TweetSentBR)."""
    return rows
