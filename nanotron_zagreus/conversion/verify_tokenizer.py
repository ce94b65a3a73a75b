"""Prove that the tokenizer of a Hugging Face folder, as transformers loads it, reads text as its tokenizer.json does.

The training data was made by tokenizer.json alone; a class of transformers may cut text in another way, or add tokens.
"""

from __future__ import annotations

from pathlib import Path

from nanotron_zagreus.errors import VerificationError
from nanotron_zagreus.tokenizer_lookup import CONFIG_FILE, MAIN_FILE

TEXTS = (
    "A inteligência artificial é uma disciplina que",
    "def add(a, b):\n    return a + b  # 12345\n",
    "L'été, città, mañana -- 3.14159 \t tabs\n\n",
    "  indented,  with two spaces ",
)


def verify_tokenizer(folder: Path, vocab_size: int) -> None:
    """Compare what `AutoTokenizer` makes of a few texts with what tokenizer.json makes of them.

    Special tokens around a text are left out: how many there are is the tokenizer's own affair.

    Args:
        folder: the Hugging Face folder.
        vocab_size: rows of the model.

    Raises:
        VerificationError: it cannot be loaded, reads a text differently, or has tokens without a row.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    advice = f"correct the tokenizer's {CONFIG_FILE}; the class PreTrainedTokenizerFast reads {MAIN_FILE} as it is"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        found = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    except Exception as error:  # a tokenizer's class may raise anything, the library of tokenizers plain Exception
        raise VerificationError(f"{folder}: transformers cannot use its tokenizer: {error}; {advice}") from error
    plain = Tokenizer.from_file(str(folder / MAIN_FILE))
    plain.no_truncation()
    plain.no_padding()
    for text, ids in zip(TEXTS, found, strict=True):
        wanted = plain.encode(text, add_special_tokens=False).ids
        if ids != wanted:
            raise VerificationError(
                f"{folder}: {type(tokenizer).__name__} reads {text!r} as {ids}, {MAIN_FILE} as {wanted}; {advice}"
            )
    if len(tokenizer) > vocab_size:
        raise VerificationError(
            f"{folder}: transformers counts {len(tokenizer)} tokens in its tokenizer, the model has {vocab_size} rows; "
            f"{advice}"
        )
