"""Read answers out of generated Portuguese text: a letter, a label, a number.

These are the rules of the Open Portuguese LLM Leaderboard, whose scores they reproduce; where a rule looks
odd it is the leaderboard's. The task files in ``tasks/leaderboard_pt`` name the functions of lm-eval's
filter form, ``(responses, documents) -> responses``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nanotron_zagreus.evaluation.transliteration import to_ascii

INVALID = "[invalid]"
"""What an answer becomes when nothing can be read out of it; equal to no label."""

Filter = Callable[[Iterable[Sequence[str]], Any], list[list[Any]]]

# A label may be misspelt by up to half its letters.
_LEAST_SIMILARITY = 0.5
_ENDS_OF_ANSWER = (".", ",", ";", ":", "(", ")", "[", "]", "\n")
# In this order: announced as the answer, with a full stop, with another mark, at the end, anywhere.
_LETTER_PATTERNS = (
    "(?:[Ll]etra|[Aa]lternativa|[Rr]esposta|[Rr]esposta [Cc]orreta|[Rr]esposta [Cc]orreta e|[Oo]pcao)"
    ":? ([{letters}])\\b",
    "\\b([{letters}])\\.",
    "\\b([{letters}]) ?[.):-]",
    "\\b([{letters}])$",
    "\\b([{letters}])\\b",
)


def find_letter(text: str, letters: str) -> str:
    """Return the choice, one of ``letters``, that ``text`` names, or ``[invalid]``.

    Spaces and line breaks count as one space, accents are taken off; then the text is the letter, or the
    first of five patterns that is found anywhere decides.
    """
    plain = to_ascii(re.sub(" +", " ", re.sub(r"[\n\r\t]", " ", text)).strip()).strip()
    if plain in tuple(letters):
        return plain
    for pattern in _LETTER_PATTERNS:
        match = re.search(pattern.format(letters=letters), plain)
        if match:
            return match.group(1)
    return INVALID


def find_label(text: str, labels: Sequence[str]) -> str:
    """Return the label that ``text`` means, or ``[invalid]``.

    Case and accents aside: the text is a label; or exactly one label occurs in it; or its beginning, up to
    the first punctuation mark and no longer than the longest label, is at least half similar to one.
    """
    plain_labels = [to_ascii(label.strip().lower()) for label in labels]
    plain = to_ascii(text.strip().lower())
    if plain in plain_labels:
        return labels[plain_labels.index(plain)]
    if not plain:
        return INVALID
    contained = [index for index, label in enumerate(plain_labels) if label in plain]
    if len(contained) == 1:
        return labels[contained[0]]
    for mark in _ENDS_OF_ANSWER:
        plain = plain.partition(mark)[0]
    plain = plain[: max(map(len, plain_labels))]
    similarities = [similarity(plain, label) for label in plain_labels]
    best = max(similarities)
    return labels[similarities.index(best)] if best >= _LEAST_SIMILARITY else INVALID


def find_number(text: str, *, lowest: float, highest: float, fallback: float) -> float:
    """Return the number that the digits of the whole ``text`` make, clipped to [lowest, highest].

    A comma is a decimal point; the first point between two digits counts, every other is dropped. All
    other signs are dropped too, so ``4 e 3`` reads 43. Without digits the answer is ``fallback``.
    """
    kept = re.sub(r"[^0-9.]", "", text.replace(",", "."))
    point = re.search(r"[0-9]\.[0-9]", kept)
    if point:
        cut = point.start() + 1
        kept = kept[:cut].replace(".", "") + "." + kept[cut + 1 :].replace(".", "")
    else:
        kept = kept.replace(".", "")
    return min(max(float(kept), lowest), highest) if kept else fallback


def similarity(one: str, other: str) -> float:
    """Return 1 - (Levenshtein distance) / (length of the longer text); 1.0 for two empty texts."""
    longest = max(len(one), len(other))
    return 1 - _distance(one, other) / longest if longest else 1.0


def _distance(one: str, other: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions from ``one`` to ``other``."""
    previous = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        current = [row]
        for column, right in enumerate(other, start=1):
            substitution = previous[column - 1] + (left != right)
            current.append(min(previous[column] + 1, current[-1] + 1, substitution))
        previous = current
    return previous[-1]


def _each(read: Callable[[str], Any]) -> Filter:
    """Return ``read`` as lm-eval's custom filter: applied to every response of every document."""

    def apply(responses: Iterable[Sequence[str]], documents: Any) -> list[list[Any]]:
        return [[read(text) for text in texts] for texts in responses]

    return apply


letters_a_to_e = _each(lambda text: find_letter(text, "ABCDE"))
letters_a_to_d = _each(lambda text: find_letter(text, "ABCD"))
yes_or_no = _each(lambda text: find_label(text, ("Sim", "Não")))
sentiments = _each(lambda text: find_label(text, ("Positivo", "Neutro", "Negativo")))
similarity_scores = _each(lambda text: find_number(text, lowest=1.0, highest=5.0, fallback=5.0))
