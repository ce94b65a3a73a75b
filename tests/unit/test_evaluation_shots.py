"""The leaderboard's fixed examples, found by their ids."""

from __future__ import annotations

import pytest

from nanotron_zagreus.evaluation.shots import enem_examples, listed_ids

datasets = pytest.importorskip("datasets")


def test_of_rows_with_one_id_the_first_is_shown() -> None:
    ids = listed_ids("enem")
    rows = datasets.Dataset.from_list([{"id": name, "place": place} for place in ("first", "second") for name in ids])
    shown = enem_examples(rows)
    assert [(row["id"], row["place"]) for row in shown] == [(name, "first") for name in ids]
