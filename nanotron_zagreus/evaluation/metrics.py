"""Score filtered answers the way the Portuguese leaderboard does, in lm-eval's form.

A ``score_…`` function turns one document and its answer into (gold, answer) pairs or 0/1 values; an
aggregation turns all of a task's values into its score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanotron_zagreus.evaluation.prompts import (
    entailment_target,
    letter_target,
    offence_target,
    satisfaction_target,
    sentiment_target,
    similarity_target,
)

Pair = tuple[Any, Any]
"""(gold, answer)"""


def f1_macro(pairs: Sequence[Pair]) -> float:
    """Return the mean over the labels of the gold answers of F1 = 2 TP / (2 TP + FP + FN).

    A label that only answers have, such as ``[invalid]``, is no class of its own; it is a miss for the
    gold label.
    """
    golds, answers, hits = Counter[str](), Counter[str](), Counter[str]()
    for gold, answer in pairs:
        golds[gold] += 1
        answers[answer] += 1
        hits[gold] += gold == answer
    return math.fsum(2 * hits[label] / (golds[label] + answers[label]) for label in golds) / len(golds)


def pearson(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the absolute value of Pearson's correlation; 0 where it is undefined (constant answers)."""
    if len(pairs) < 2:
        return 0.0
    golds, answers = np.asarray(pairs, dtype=np.float64).T
    golds, answers = golds - golds.mean(), answers - answers.mean()
    norm = float(np.linalg.norm(golds) * np.linalg.norm(answers))
    if np.ptp(golds) == 0 or np.ptp(answers) == 0 or norm == 0:
        return 0.0
    return min(1.0, abs(float(golds @ answers) / norm))


def mean_squared_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the mean of the squared differences."""
    return math.fsum((gold - answer) ** 2 for gold, answer in pairs) / len(pairs)


def score_letter(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score an exam question."""
    return {"acc": float(results[0] == letter_target(doc))}


def score_entailment(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score an ASSIN 2 RTE pair."""
    return _label_scores(entailment_target(doc), results[0])


def score_satisfaction(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score a FaQuAD NLI pair."""
    return _label_scores(satisfaction_target(doc), results[0])


def score_offence(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score a comment of HateBR or Portuguese Hate Speech."""
    return _label_scores(offence_target(doc), results[0])


def score_sentiment(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score a tweet of TweetSentBR."""
    return _label_scores(sentiment_target(doc), results[0])


def score_similarity(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, Any]:
    """Score an ASSIN 2 STS pair; the gold value is the one shown in prompts, with one decimal."""
    pair = (float(similarity_target(doc).replace(",", ".")), results[0])
    return {"pearson": pair, "mse": pair}


def _label_scores(gold: str, answer: str) -> dict[str, Any]:
    return {"f1_macro": (gold, answer), "acc": float(gold == answer)}
