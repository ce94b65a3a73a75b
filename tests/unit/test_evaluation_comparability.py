"""What may stand in one table, and what of several measurements of one model stands there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_rows import result, row_of

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation.progression import build_tables
from nanotron_zagreus.evaluation.results import TaskResult, newest_results


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_fewshot": 0}, "shots 5 against 0"),
        ({"version": "2.0"}, "task version 1.0 against 2.0"),
        ({"limit": 10}, "limit None against 10"),
        ({"chat_template": True}, "chat template False against True"),
        ({"dtypes": frozenset({"bfloat16"})}, "dtype auto/float32 against bfloat16"),
    ],
)
def test_scores_measured_differently_are_refused(change: dict[str, object], words: str) -> None:
    one, other = result("1000", "m_mmlu_pt", 0.2), result("2000", "m_mmlu_pt", 0.3)
    other = replace(other, conditions=replace(other.conditions, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        build_tables([one, other])


def test_other_documents_or_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match="100 documents against 90"):
        build_tables([result("1000", "arc_pt", 0.2), result("2000", "arc_pt", 0.2, num_documents=90)])
    with pytest.raises(InputError, match="other documents"):
        build_tables([result("1000", "arc_pt", 0.2), result("2000", "arc_pt", 0.2, documents="others")])
    build_tables([result("1000", "arc_pt", 0.2), result("2000", "arc_pt", 0.2, documents=None)])
    with pytest.raises(InputError, match=r"different files of it.*--replace"):
        build_tables([result("1000", "arc_pt", 0.2), result("1000", "hellaswag_pt", 0.2, fingerprint="others")])


def test_results_of_the_plain_command_beside_others_of_one_model_are_named() -> None:
    """`zagreus evaluate --replace` leaves them where they are."""
    plain = result("1000", "hellaswag_pt", 0.2, fingerprint=None, path=Path("results/hf__1000/results_2.json"))
    with pytest.raises(InputError, match=r"different files of it.*move .*away: results/hf__1000/results_2\.json$"):
        build_tables([result("1000", "arc_pt", 0.2), plain])


def limited(label: str, task: str, value: float, limit: float, **changes: object) -> TaskResult:
    """Return a result of the first documents only."""
    made = result(label, task, value, path=Path(f"results/{label}/results_limited.json"), **changes)
    return replace(made, conditions=replace(made.conditions, limit=limit), num_documents=int(limit))


def test_a_later_run_on_fewer_documents_does_not_replace_the_full_one() -> None:
    full, short = result("1000", "arc_pt", 0.2), limited("1000", "arc_pt", 1.0, 1, date=2.0)
    assert newest_results([full, short]) == newest_results([short, full]) == [full]
    longer = limited("1000", "arc_pt", 0.5, 10)
    assert newest_results([short, longer]) == [longer]
    again = replace(longer, date=3.0)
    assert newest_results([again, longer]) == [again]


def test_a_limit_is_told_below_the_table() -> None:
    results = [limited("1000", task, 0.5, 1) for task in ("arc_pt", "hellaswag_pt", "m_mmlu_pt")]
    (table,) = build_tables(results)
    assert table.notes[0] == "a trial: the first 1 document of every task, not the whole of it"
    (table,) = build_tables([replace(found, conditions=replace(found.conditions, limit=0.5)) for found in results])
    assert table.notes[0] == "a trial: the first 50 % of the documents of every task, not the whole of it"
    (table,) = build_tables(row_of("1000", 0.2, 0.2, 0.2))
    assert not any("trial" in note for note in table.notes)


def test_the_run_with_a_limit_is_the_one_to_move() -> None:
    full, short = result("2000", "arc_pt", 0.2), limited("1000", "arc_pt", 1.0, 1)
    for results in ([full, short], [short, full]):
        with pytest.raises(InputError, match=r"limit.*1000/results_limited\.json"):
            build_tables(results)


@pytest.mark.parametrize(
    ("change", "words"), [({"limit": 1}, "limit None against 1"), ({"chat_template": True}, "chat template")]
)
def test_one_average_is_over_tasks_measured_alike(change: dict[str, object], words: str) -> None:
    one, other = result("1000", "arc_pt", 0.2), result("1000", "m_mmlu_pt", 1.0)
    other = replace(other, conditions=replace(other.conditions, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"arc_pt.*m_mmlu_pt.*{words}"):
        build_tables([one, other])


@pytest.mark.parametrize("dtypes", [{"auto", "bfloat16"}, {"float32"}, set()])
def test_each_model_may_be_computed_in_what_it_was_saved_in(dtypes: set[str]) -> None:
    """Asked for as `auto`, or in the same numbers after all, or not recorded."""
    one, other = result("1000", "arc_pt", 0.2), result("2000", "arc_pt", 0.2)
    build_tables([one, replace(other, conditions=replace(other.conditions, dtypes=frozenset(dtypes)))])


def context(task: str, *rules: str | None) -> list[TaskResult]:
    """Return a result per rule for prompts that are too long."""
    results = [
        result(f"{step}000", task, 0.2, scores={"acc": 0.2, "f1_macro": 0.2}) for step, _ in enumerate(rules, start=1)
    ]
    pairs = zip(results, rules, strict=True)
    return [replace(found, conditions=replace(found.conditions, context=rule)) for found, rule in pairs]


def test_leaderboard_scores_of_plain_lm_eval_are_not_comparable() -> None:
    with pytest.raises(InputError, match="room for prompts and answers leaderboard-pt against lm-eval"):
        build_tables(context("assin2_rte", "leaderboard-pt", "lm-eval"))
    build_tables(context("assin2_rte", "leaderboard-pt", None))  # not recorded


def test_other_scores_of_plain_lm_eval_are_told_apart_below_the_table() -> None:
    (table,) = build_tables(context("m_mmlu_pt", "whole-shots", "lm-eval", "whole-shots"))
    assert table.notes[-1] == (
        "m_mmlu_pt: 2000 by the plain lm-eval command, which cuts a prompt that is too long where the others lose "
        "whole shots"
    )
    (table,) = build_tables(context("m_mmlu_pt", "lm-eval", "lm-eval"))
    assert not any("plain" in note for note in table.notes)
