"""Turn held-out prose into questions a language model of a million parameters has a chance at.

Each question shows the start of a passage and four continuations of the same words: one as written, three
shuffled. Guessing scores 0.25.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

CONTEXT_WORDS = 8
CONTINUATION_WORDS = 12
NUM_CHOICES = 4


def write_word_order_questions(documents_file: Path, output: Path) -> int:
    """Write one question per 20 words of the jsonl ``documents_file``; return how many.

    The file holds `context`, `choices` and `answer` (the index of the passage as written) per line.
    """
    texts = [json.loads(line)["text"] for line in documents_file.read_text(encoding="utf-8").splitlines()]
    questions = [question for text in texts for paragraph in text.split("\n") for question in _questions(paragraph)]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in questions), encoding="utf-8")
    return len(questions)


def _questions(paragraph: str) -> list[dict[str, object]]:
    words = paragraph.split()
    span = CONTEXT_WORDS + CONTINUATION_WORDS
    return [_question(words[start : start + span]) for start in range(0, len(words) - span + 1, span)]


def _question(words: list[str]) -> dict[str, object]:
    context, continuation = words[:CONTEXT_WORDS], words[CONTEXT_WORDS:]
    # Seeded by the passage itself: the same text gives the same question wherever it stands.
    generator = random.Random(" ".join(words))
    choices = [" ".join(continuation)]
    while len(choices) < NUM_CHOICES:
        shuffled = " ".join(generator.sample(continuation, len(continuation)))
        if shuffled not in choices:
            choices.append(shuffled)
    answer = generator.randrange(NUM_CHOICES)
    choices[0], choices[answer] = choices[answer], choices[0]
    return {"context": " ".join(context), "choices": choices, "answer": answer}
