"""Train the demo's tokenizer: a byte-level BPE shaped like Llama 3's, with 2,048 entries instead of 128,256."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"

# Words with their leading space, numbers in groups of three, punctuation, runs of spaces: what Llama 3 keeps apart.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(files: list[Path], output: Path, *, vocab_size: int, max_length: int) -> Tokenizer:
    """Train on the `text` of jsonl ``files`` and write a tokenizer folder that transformers loads.

    Args:
        files: one per language; smaller ones are repeated so that each language counts about alike.
        output: folder for `tokenizer.json` and `tokenizer_config.json`.
        vocab_size: entries in all, special tokens included; they get the ids 0 (begin) and 1 (end).
        max_length: the model's context in tokens, for the tokenizer's `model_max_length`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN_OF_TEXT, END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_balanced_texts(files), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A",
        pair=f"{BEGIN_OF_TEXT} $A {BEGIN_OF_TEXT} $B",
        special_tokens=[(BEGIN_OF_TEXT, tokenizer.token_to_id(BEGIN_OF_TEXT))],
    )
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(output / "tokenizer.json"))
    (output / "tokenizer_config.json").write_text(json.dumps(_transformers_config(max_length), indent=2) + "\n")
    return tokenizer


def _balanced_texts(files: list[Path]) -> Iterator[str]:
    largest = max(path.stat().st_size for path in files)
    for path in files:
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        for _ in range(max(1, round(largest / path.stat().st_size))):
            yield from texts


def _transformers_config(max_length: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
