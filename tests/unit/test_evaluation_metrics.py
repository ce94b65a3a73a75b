"""Scores of whole tasks, worked out by hand."""

from __future__ import annotations

import math
import random

import pytest

from nanotron_zagreus.evaluation import metrics
from nanotron_zagreus.evaluation.filters import INVALID
from nanotron_zagreus.evaluation.standard_errors import add_bootstrap_errors, bootstrap_error


def test_f1_macro_averages_over_the_gold_labels() -> None:
    # Sim: 2 hits, 3 gold, 2 answers -> 4/5; Não: 1 hit, 1 gold, 2 answers -> 2/3
    pairs = [("Sim", "Sim"), ("Sim", "Sim"), ("Sim", "Não"), ("Não", "Não")]
    assert metrics.f1_macro(pairs) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_an_invalid_answer_is_a_miss_and_no_class() -> None:
    # Sim: 1 hit, 2 gold, 1 answer -> 2/3; Não: 1 hit, 1 gold, 1 answer -> 1
    pairs = [("Sim", "Sim"), ("Sim", INVALID), ("Não", "Não")]
    assert metrics.f1_macro(pairs) == pytest.approx((2 / 3 + 1) / 2)


def test_a_label_that_no_gold_answer_has_does_not_count() -> None:
    pairs = [("Positivo", "Neutro"), ("Positivo", "Positivo")]
    assert metrics.f1_macro(pairs) == pytest.approx(2 / 3)
    assert metrics.f1_macro([("Sim", INVALID)]) == 0.0


def test_always_the_same_label_gives_the_cards_third() -> None:
    """Qwen3's RTE and HateBR on the card are .3333: one label for all of a balanced test."""
    pairs = [(gold, "Sim") for gold in ("Sim", "Não") * 50]
    assert round(metrics.f1_macro(pairs), 4) == 0.3333


def test_pearson_is_absolute_and_0_where_undefined() -> None:
    rising = [(1.0, 1.0), (2.0, 3.0), (3.0, 5.0)]
    assert metrics.pearson(rising) == pytest.approx(1.0)
    assert metrics.pearson([(gold, -answer) for gold, answer in rising]) == pytest.approx(1.0)
    # deviations (-1, 0, 1) and (1, -2, 1): the sum of products is 0
    assert metrics.pearson([(1.0, 2.0), (2.0, -1.0), (3.0, 2.0)]) == pytest.approx(0.0, abs=1e-15)
    assert metrics.pearson([(1.0, 5.0), (2.0, 5.0)]) == 0.0
    assert metrics.pearson([(1.0, 5.0)]) == 0.0


def test_mean_squared_error() -> None:
    assert metrics.mean_squared_error([(4.5, 5.0), (1.0, 3.0)]) == pytest.approx((0.25 + 4.0) / 2)


def test_documents_are_scored_against_the_target_shown_in_prompts() -> None:
    assert metrics.score_letter({"answerKey": "C"}, ["C"]) == {"acc": 1.0}
    assert metrics.score_entailment({"entailment_judgment": 1}, ["Não"]) == {"f1_macro": ("Sim", "Não"), "acc": 0.0}
    assert metrics.score_satisfaction({"label": 0}, ["Não"]) == {"f1_macro": ("Não", "Não"), "acc": 1.0}
    assert metrics.score_offence({"label": 1}, ["Sim"])["acc"] == 1.0
    assert metrics.score_sentiment({"label": "Neutral"}, ["Neutro"]) == {"f1_macro": ("Neutro", "Neutro"), "acc": 1.0}
    # 3.25 is shown as 3,2 (rounded half to even), and that is what is compared
    assert metrics.score_similarity({"relatedness_score": 3.25}, [3.0]) == {"pearson": (3.2, 3.0), "mse": (3.2, 3.0)}


def test_bootstrap_error_of_a_mean_is_the_textbooks() -> None:
    generator = random.Random(0)
    items = [generator.gauss(0, 1) for _ in range(400)]
    error = bootstrap_error(lambda values: math.fsum(values) / len(values), items, 1000)
    # sd / sqrt(n) = 1/20; 1000 draws give the error itself to about 2 % (one standard error), so 10 % is 4
    assert error == pytest.approx(0.05, rel=0.1)


def test_bootstrap_fills_only_what_is_open() -> None:
    class Task:
        task_name = "rte"

        def aggregation(self) -> dict[str, object]:
            return {"f1_macro": metrics.f1_macro}

    pairs = [("Sim", "Sim"), ("Não", "Sim")] * 20
    results = {
        "results": {"rte": {"f1_macro,all": 0.3, "f1_macro_stderr,all": "N/A", "acc_stderr,all": 0.08}},
        "samples": {"rte": [{"filter": "all", "f1_macro": pair} for pair in pairs]},
    }
    add_bootstrap_errors(results, Task(), 100)
    assert 0.0 < results["results"]["rte"]["f1_macro_stderr,all"] < 0.1
    assert results["results"]["rte"]["acc_stderr,all"] == 0.08
    results["results"]["rte"]["f1_macro_stderr,all"] = "N/A"
    add_bootstrap_errors(results, Task(), 0)
    assert results["results"]["rte"]["f1_macro_stderr,all"] == "N/A"
