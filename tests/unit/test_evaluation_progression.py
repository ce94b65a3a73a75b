"""The table of models x tasks: averages, gaps, noise, what may not stand together, and its written forms."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from evaluation_rows import result, row_of

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.progression import build_tables
from nanotron_zagreus.evaluation.published_values import published_rows
from nanotron_zagreus.evaluation.rendering import as_csv, as_json, as_markdown, as_rich, check_format
from nanotron_zagreus.evaluation.suites import find_suite, suite_names


def test_columns_stand_as_on_the_card_and_rows_by_step() -> None:
    (table,) = build_tables([*row_of("207000", 0.2705, 0.3768, 0.2671), *row_of("153000", 0.2667, 0.3732, 0.2685)])
    assert [column.title for column in table.columns] == ["ARC PT", "HellaSwag PT", "MMLU PT"]
    assert [row.title for row in table.rows] == ["153k", "207k"]
    assert [round(row.average.value, 4) for row in table.rows if row.average] == [0.3028, 0.3048]


def test_only_whole_thousands_of_steps_are_written_short() -> None:
    (table,) = build_tables([row for step in ("1500", "2000", "900") for row in row_of(step, 0.2, 0.3, 0.2)])
    assert [row.title for row in table.rows] == ["900", "1500", "2k"]


def test_tokens_are_those_recorded_or_else_those_of_the_steps() -> None:
    results = [*row_of("1000", 0.2, 0.3, 0.2), *(replace(found, tokens=7) for found in row_of("2000", 0.2, 0.3, 0.2))]
    assert [row.tokens for row in build_tables(results)[0].rows] == [None, 7]
    assert [row.tokens for row in build_tables(results, tokens_per_step=8)[0].rows] == [8000, 7]
    unnumbered = [replace(found, step=None, label="base") for found in results[:3]]
    assert [row.tokens for row in build_tables(unnumbered, tokens_per_step=8)[0].rows] == [None]


def test_error_of_the_average_is_that_of_independent_scores() -> None:
    (table,) = build_tables(row_of("1000", 0.2, 0.3, 0.4, error=0.03))
    assert table.rows[0].average is not None
    assert table.rows[0].average.error == pytest.approx(math.sqrt(3) * 0.03 / 3)


def test_partial_rows_average_what_is_there_and_are_never_best() -> None:
    results = [*row_of("1000", 0.2, 0.2, 0.2), *row_of("2000", 0.25, 0.25, 0.25), result("3000", "arc_pt", 0.9)]
    (table,) = build_tables(results)
    assert table.best is not None and table.best.label == "2000"
    assert table.rows[2].cells == (table.rows[2].cells[0], None, None)
    assert table.rows[2].average is not None and table.rows[2].average.value == 0.9
    assert any("incomplete" in note and "3k" in note for note in table.notes)
    assert "| 3k | 0.9000 ± 0.0100 | – | – | 0.9000 ± 0.0100 * |" in as_markdown(table)


@pytest.mark.parametrize(("lead", "noisy"), [(0.005, True), (0.05, False)])
def test_a_lead_within_noise_is_called_so(lead: float, noisy: bool) -> None:
    results = [*row_of("1000", 0.3, 0.3, 0.3), *row_of("2000", 0.3 + lead, 0.3 + lead, 0.3 + lead)]
    (table,) = build_tables(results)
    assert table.notes[0].startswith("best: 2k")
    assert ("within noise" in table.notes[0]) is noisy


def test_every_row_that_may_be_the_best_is_counted() -> None:
    results = [*row_of("1000", 0.3, 0.3, 0.3), *row_of("2000", 0.3, 0.3, 0.3), *row_of("3000", 0.299, 0.3, 0.3)]
    (table,) = build_tables([*results, *row_of("4000", 0.1, 0.1, 0.1)])
    # three independent errors of .01 in each average: .01 / sqrt(3), and sqrt(2) of that for a difference
    assert table.notes[0] == (
        "best: 1k with an average of 0.3000; within noise: 2k (0.0000 ± 0.0082 behind) and 1 more are less than two "
        "standard errors behind"
    )


def test_tasks_of_no_suite_get_a_table_of_their_own_and_perplexities_no_average() -> None:
    results = [result("1000", "quiz", 0.5), result("1000", "heldout", 0.5)]
    results[1] = replace(results[1], scores={"bits_per_byte": 1.5}, errors={"bits_per_byte": 0.1})
    (table,) = build_tables(results)
    assert table.name == "tasks" and not table.has_average and table.best is None
    assert [row.average for row in table.rows] == [None]
    assert "heldout (bits_per_byte) ↓ | quiz (acc) ↑" in as_markdown(table)


def test_a_missing_metric_names_the_file() -> None:
    with pytest.raises(InputError, match=r"results_1\.json.*acc_norm.*move the file away"):
        build_tables([result("1000", "arc_pt", 0.2, scores={"acc": 0.2})])


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(InputError, match="zagreus evaluate"):
        build_tables([])


def test_shots_that_did_not_fit_are_told_once_for_all_models() -> None:
    shots = {"asked": 5, "documents": 10, "shortened": 10, "kept": 20, "fewest": 2, "cut": 1}
    results = [result(label, "m_mmlu_pt", 0.2, shots=shots) for label in ("1000", "2000")]
    (table,) = build_tables(results)
    assert table.notes[-1] == "m_mmlu_pt: 2.0 of 5 shots fitted on average, 1 of 10 documents cut (all models)"
    results = [result(label, "m_mmlu_pt", 0.2, step=int(label), shots=shots) for label in ("1000", "900")]
    results.append(result("2000", "m_mmlu_pt", 0.2))
    (table,) = build_tables(results)
    assert table.notes[-1].endswith("cut (900, 1000)")


@pytest.mark.parametrize("suite", ["progression-por", "leaderboard-pt"])
def test_published_averages_are_the_means_of_the_published_scores(suite: str) -> None:
    rows = published_rows(suite)
    assert rows and all(row.published and len(row.cells) == len(find_suite(suite).columns) for row in rows)
    for row in rows:
        values = [cell.value for cell in row.cells if cell]
        assert row.average is not None
        # Scores are printed with four decimals, so a mean may differ by half a unit from the printed one, which
        # is itself rounded: one unit in all (345k is printed as .3009, its scores give .3010).
        assert row.average.value == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_published_rows_are_marked_and_never_best() -> None:
    (table,) = build_tables(row_of("1000", 0.2, 0.2, 0.2), None, published_rows)  # and no suite without results
    assert len(table.rows) == 8
    assert table.best is table.rows[0]
    assert "| 582k (published) | 0.2786 | 0.3865 | 0.2688 | 0.3113 |" in as_markdown(table)
    assert table.rows[-1].tokens == 582_000 * 1_048_576  # 610B tokens


def test_csv_and_json_carry_full_precision() -> None:
    tables = build_tables(row_of("1000", 0.123456789, 0.2, 0.3), tokens_per_step=1_048_576)
    (row,) = csv.DictReader(io.StringIO(as_csv(tables[0])))
    assert row["ARC PT"] == "0.123456789" and row["tokens"] == "1048576000" and row["ARC PT stderr"] == "0.01"
    (data,) = json.loads(as_json(tables))
    assert data["best"] == "1000" and data["rows"][0]["cells"][0]["value"] == 0.123456789


def test_the_widest_suite_fits_into_80_letters() -> None:
    from rich.console import Console

    columns = find_suite("leaderboard-pt").columns
    results = [
        result("483000", column.task, 0.25, scores={column.metric: 0.25}, errors={column.metric: 0.0123})
        for column in columns
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(as_rich(build_tables(results)[0]))
    text = console.export_text()
    assert text.count("0.2500") == 10 and text.count("±.0123") == 9 and "…" not in text


def test_notes_use_the_whole_width_of_the_terminal() -> None:
    from rich.console import Console

    results = [*row_of("1000", 0.3, 0.3, 0.3), *row_of("2000", 0.3, 0.3, 0.3)]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(as_rich(build_tables(results)[0]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert any(line.startswith("best: 1k") and line.endswith("behind") for line in lines)
    assert any("HellaSwag PT ↑" in line for line in lines)  # headings of a narrow table stay on one line


def test_suites_are_those_of_the_card() -> None:
    assert suite_names() == [
        "progression-por", "progression-ita", "progression-spa", "progression-fra", "leaderboard-pt"
    ]  # fmt: skip
    assert find_suite("progression-ita").tasks == ("arc_it", "hellaswag_it", "m_mmlu_it")
    shots = [column.num_fewshot for column in find_suite("progression-por").columns]
    assert shots == [0, 0, 5]
    with pytest.raises(InputError, match="did you mean 'leaderboard-pt'"):
        find_suite("leaderboard")
    with pytest.raises(InputError, match="markdown"):
        check_format("latex")
