"""Make a tokenizer write BOS and EOS exactly as asked.

What it calls BOS and EOS is taken from `tokenizer_config.json`, else from its own post-processor, else from the usual
names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.file_hash import hash_file
from nanotron_zagreus.tokenizer_lookup import locate_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_USUAL_NAMES = {
    "bos": ("<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "[BOS]"),
    "eos": ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[EOS]"),
}


@dataclass(frozen=True)
class TokenizerChoice:
    """A tokenizer on disk and the special tokens to write around each document."""

    name: str
    """What the user called it; goes into the shards' metadata."""
    path: Path
    """Its `tokenizer.json`."""
    sha256: str
    bos_token: str | None
    """Written before each document; None: nothing is."""
    eos_token: str | None
    """Written after each document; None: nothing is."""


def choose_tokenizer(
    name: str, *, bos: bool = True, eos: bool = False, bos_token: str | None = None, eos_token: str | None = None
) -> TokenizerChoice:
    """Return the tokenizer called ``name`` with the special tokens asked for.

    Args:
        name: a hub id, a folder, or a `tokenizer.json`.
        bos, eos: whether to write that token.
        bos_token, eos_token: its text, when the tokenizer's own is not the one wanted.

    Raises:
        MissingInputError: there is no such tokenizer here or on the hub.
        InputError: it has no such token.
    """
    located = locate_tokenizer(name)
    path, config = located.main, _read_config(located.config)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        ids = token_ids(data)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"tokenizer {name!r}: {path} is not a tokenizer.json ({error}); save the tokenizer again"
        ) from error
    chosen = {}
    for role, wanted, text in (("bos", bos, bos_token), ("eos", eos, eos_token)):
        token = (text or _own_token(role, data, config, ids)) if wanted else None
        if wanted and token is None:
            raise InputError(
                f"--{role}: tokenizer {name!r} names no {role.upper()} token; name it with --{role}-token TEXT, "
                f"or use --no-{role}"
            )
        if token is not None and token not in ids:
            raise InputError(
                f"--{role}-token: {token!r} is not in the vocabulary of tokenizer {name!r}; check its text"
            )
        chosen[role] = token
    return TokenizerChoice(name, path, hash_file(path), chosen["bos"], chosen["eos"])


def load_tokenizer(choice: TokenizerChoice) -> Tokenizer:
    """Return the reference tokenizer (Hugging Face tokenizers) that writes ``choice``'s special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(choice.path))
    # A tokenizer saved for fine-tuning may cut or pad documents; shards hold whole ones.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    parts, special = ["$A"], []
    if choice.bos_token is not None:
        parts.insert(0, "BOS")
        special.append(("BOS", tokenizer.token_to_id(choice.bos_token)))
    if choice.eos_token is not None:
        parts.append("EOS")
        special.append(("EOS", tokenizer.token_to_id(choice.eos_token)))
    tokenizer.post_processor = TemplateProcessing(single=" ".join(parts), special_tokens=special)
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return the highest token id plus one, which is what a model needs; ids may have gaps, so tokens may be fewer."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def token_ids(data: dict[str, Any]) -> dict[str, int]:
    """Return text -> id of every token in the contents of a `tokenizer.json`, added tokens included."""
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram models list [text, score] pairs in the order of their ids
        vocabulary = {entry[0]: index for index, entry in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in data.get("added_tokens") or []}}


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); restore it") from error
    return config if isinstance(config, dict) else {}


def _own_token(role: str, data: dict[str, Any], config: dict[str, Any], ids: dict[str, int]) -> str | None:
    """Return the text of the tokenizer's own token for ``role`` (`bos` or `eos`), if it can be told."""
    configured = config.get(f"{role}_token")
    if isinstance(configured, dict):
        configured = configured.get("content")
    if isinstance(configured, str):
        return configured
    written = _template_token(role, data.get("post_processor"))
    if written is not None:
        return written
    special = {token["content"] for token in data.get("added_tokens") or [] if token.get("special")}
    known = [name for name in _USUAL_NAMES[role] if name in special]
    return known[0] if len(known) == 1 else None


def _template_token(role: str, processor: Any) -> str | None:
    """Return the token that a post-processor writes at that end of a text, if it writes exactly one."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        found = [_template_token(role, member) for member in processor.get("processors", [])]
        return next((token for token in found if token is not None), None)
    if processor.get("type") != "TemplateProcessing":
        return None
    pieces = processor.get("single", [])
    middle = next((index for index, piece in enumerate(pieces) if "Sequence" in piece), len(pieces))
    side = pieces[:middle] if role == "bos" else pieces[middle + 1 :]
    names = [piece["SpecialToken"]["id"] for piece in side if "SpecialToken" in piece]
    return names[0] if len(names) == 1 else None
