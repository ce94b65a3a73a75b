"""Small byte-level BPE tokenizers, trained in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
TEXTS = [
    f"Document {n}: a rainha de copas disse não, e {n * 37} ratos fugiram! " * (1 + n % 5) + "ç" * (n % 3)
    for n in range(230)
]


def train_tokenizer(folder: Path, *, single: str | None = f"{BOS} $A", named: bool = False) -> Path:
    """Write a tokenizer.json of 400 tokens, BOS 0 and EOS 1 among them, into ``folder``.

    Args:
        single: template of the post-processor; None: no post-processor.
        named: also write a tokenizer_config.json that names BOS and EOS.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if single is not None:
        specials = [(token, number) for number, token in enumerate((BOS, EOS)) if token in single]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if named:
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": {"content": EOS}}))
    return folder / "tokenizer.json"
