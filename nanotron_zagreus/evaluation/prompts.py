"""Write what Jinja in the task files cannot say plainly: exam questions with their choices, and all targets.

The wording is the benchmark: it is the Portuguese leaderboard's, letter by letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

_YES, _NO = "Sim", "Não"
_SENTIMENTS = {"Positive": "Positivo", "Negative": "Negativo"}


def exam_question(doc: Document) -> str:
    """Return a question of ENEM or BLUEX with its choices."""
    return f"Pergunta:\n{_question_and_choices(doc)}"


def bar_exam_question(doc: Document) -> str:
    """Return a question of the OAB exam with its choices."""
    return f"Questão:\n{_question_and_choices(doc)}"


def letter_target(doc: Document) -> str:
    """Return the letter of the right choice."""
    return str(doc["answerKey"])


def entailment_target(doc: Document) -> str:
    """Return whether the hypothesis of an ASSIN 2 pair follows from the premise."""
    return (_NO, _YES)[doc["entailment_judgment"]]


def similarity_target(doc: Document) -> str:
    """Return the similarity of an ASSIN 2 pair from 1 to 5 as Portuguese writes it, with one decimal: 4,5."""
    return f"{doc['relatedness_score']:.1f}".replace(".", ",")


def satisfaction_target(doc: Document) -> str:
    """Return whether the answer of a FaQuAD pair satisfies its question."""
    return (_NO, _YES)[doc["label"]]


def offence_target(doc: Document) -> str:
    """Return whether a comment offends (HateBR), or a tweet holds hate speech."""
    return _YES if doc["label"] == 1 else _NO


def sentiment_target(doc: Document) -> str:
    """Return the sentiment of a tweet of TweetSentBR."""
    return _SENTIMENTS.get(doc["label"], "Neutro")


def _question_and_choices(doc: Document) -> str:
    choices = doc["choices"]
    lines = "".join(f"{label}. {text}\n" for text, label in zip(choices["text"], choices["label"], strict=False))
    return f"{doc['question']}\nAlternativas:\n{lines.strip()}\nResposta correta:"
