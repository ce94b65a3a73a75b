"""A byte-level BPE tokenizer in GGUF's words.

GGUF stores tokens, their types and merges, and *names* the way text is cut into words beforehand; only
tokenizers whose cut has a name can be exported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles, read_tokenizer_json
from nanotron_zagreus.errors import InputError

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The regular expression of Llama 3's tokenizer.json, which llama.cpp calls llama-bpe."""


def name_word_split(tokenizer: TokenizerFiles) -> str:
    """Return llama.cpp's name of the way this tokenizer cuts text into words.

    Raises:
        InputError: no byte-level BPE, or a cut that has no name there.
    """
    data = read_tokenizer_json(tokenizer.main)
    model = data.get("model") or {}
    if model.get("type") != "BPE":
        raise InputError(f"{tokenizer.main}: model type {model.get('type')!r}; only byte-level BPE is exported to GGUF")
    if data.get("normalizer") is not None:
        raise InputError(
            f"{tokenizer.main}: it normalizes text, which GGUF's byte-level BPE does not; use another format"
        )
    steps = _flatten(data.get("pre_tokenizer"))
    splits = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    byte_levels = [step for step in steps if step.get("type") == "ByteLevel"]
    if len(splits) + len(byte_levels) == len(steps) and len(byte_levels) == 1:
        uses_own = byte_levels[0].get("use_regex", True)
        if splits == [LLAMA_3_SPLIT] and not uses_own:
            return "llama-bpe"
        if not splits and uses_own and not byte_levels[0].get("add_prefix_space"):
            return "gpt-2"
    raise InputError(
        f"{tokenizer.main}: cuts text into words in a way that has no name in GGUF (known: Llama 3's and GPT-2's); "
        "convert without --gguf"
    )


def add_tokenizer(writer: Any, folder: Path, tokenizer: TokenizerFiles, arch: Architecture) -> None:
    """Add the tokenizer to a GGUF file.

    Args:
        writer: a gguf.GGUFWriter.
        folder: the Hugging Face folder, for special tokens, merges and chat template.
        tokenizer: the same tokenizer as read.
        arch: says how many rows the vocabulary has; rows without a token become unused ones.
    """
    from gguf import SpecialVocab, TokenType

    tokens = [f"[PAD{index}]" for index in range(arch.vocab_size)]
    types = [TokenType.UNUSED] * arch.vocab_size
    for token, index in tokenizer.vocabulary.items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for added in read_tokenizer_json(tokenizer.main).get("added_tokens") or []:
        types[added["id"]] = TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name_word_split(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    SpecialVocab(folder, load_merges=True, n_vocab=arch.vocab_size).add_to_gguf(writer, quiet=True)


def _flatten(step: Any) -> list[dict[str, Any]]:
    """Return the pre-tokenizer's steps in order."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [inner for part in step.get("pretokenizers", []) for inner in _flatten(part)]
    return [step]
