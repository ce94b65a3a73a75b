"""Make the model's vocabulary and the tokenizer's agree, or refuse."""

from __future__ import annotations

from dataclasses import replace

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.config.model import ModelConfigSection
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles
from nanotron_zagreus.errors import InputError


def fit_vocabulary(
    arch: Architecture,
    tokenizer: TokenizerFiles,
    padding_multiple: int,
    vocab_size: int | None = None,
    *,
    declared: int | None = None,
) -> tuple[Architecture, list[str]]:
    """Return the architecture with the rows that are written, and what deserves a remark.

    Nanotron pads the vocabulary to a multiple of tp x make_vocab_size_divisible_by; rows past the
    tokenizer's last token are cut when that padding, and nothing else, explains them.

    Args:
        arch: the model as stored.
        tokenizer: the tokenizer it was trained with.
        padding_multiple: tp x make_vocab_size_divisible_by of the run.
        vocab_size: rows to write, when the user says so; at least the tokenizer's tokens.
        declared: rows the run was configured with, before padding, when the checkpoint says so.

    Raises:
        InputError: the tokenizer has more tokens than the model, or so many fewer that it is another one.
    """
    stored, tokens = arch.vocab_size, tokenizer.num_tokens
    if tokens > stored:
        raise InputError(
            f"tokenizer {tokenizer.name!r}: {tokens} tokens, while the model's vocab_size is {stored}; "
            "this is not the tokenizer the model was trained with"
        )
    if declared is not None and (tokens > declared or (vocab_size is None and tokens < declared)):
        raise InputError(
            f"tokenizer {tokenizer.name!r}: {tokens} tokens, while the run was configured with vocab_size {declared}; "
            "give the tokenizer the model was trained with"
            + (f", or, if it really has unused rows, the rows to keep: --vocab-size {declared}" * (tokens < declared))
        )
    if vocab_size is not None and not tokens <= vocab_size <= stored:
        raise InputError(
            f"vocab_size: got {vocab_size}, expected between the tokenizer's {tokens} tokens and the model's {stored}"
        )
    padded = -(-tokens // padding_multiple) * padding_multiple
    if vocab_size is None and declared is None and padded != stored:
        raise InputError(
            f"tokenizer {tokenizer.name!r}: {tokens} tokens, padded to a multiple of {padding_multiple} "
            f"that is {padded}, while the model's vocab_size is {stored}; give the tokenizer the model was trained "
            f"with, or, if it really has unused rows, the rows to keep: --vocab-size {stored}"
        )
    kept = tokens if vocab_size is None else vocab_size
    notices = []
    if kept < stored:
        notices.append(
            f"vocabulary cut from {stored} to {kept} rows: the last {stored - kept} are padding, no token has them"
        )
    return replace(arch, vocab_size=kept), notices


def check_identity(tokenizer: TokenizerFiles, hashes: frozenset[str]) -> None:
    """Refuse a tokenizer whose file is not the one that the training data was made with.

    Sizes and special tokens agree between many tokenizers that read text differently.

    Args:
        tokenizer: the one to write beside the model.
        hashes: SHA-256 of the files that the data was made with; empty when nothing recorded them.
    """
    if not hashes or tokenizer.sha256 in hashes:
        return
    raise InputError(
        f"tokenizer {tokenizer.name!r}: its file has SHA-256 {tokenizer.sha256[:12]}…, the checkpoint's data was made "
        f"with {', '.join(sorted(digest[:12] + '…' for digest in hashes))}; give that tokenizer, or, if this one reads "
        "text the same way (saved again by another version, say), --accept-tokenizer"
    )


def conflicting_special_tokens(
    model: Architecture | ModelConfigSection, tokenizer: TokenizerFiles
) -> list[tuple[str, int, int | tuple[int, ...]]]:
    """Return (role, the tokenizer's id, the model's) where the two name another beginning or end of text."""
    conflicts = []
    for role in ("bos", "eos"):
        declared, named = getattr(model, f"{role}_token_id"), tokenizer.special_id(role)
        accepted = declared if isinstance(declared, tuple) else (declared,)
        if declared is not None and named is not None and named not in accepted:
            conflicts.append((role, named, declared))
    return conflicts


def check_special_tokens(arch: Architecture, tokenizer: TokenizerFiles) -> None:
    """Refuse a tokenizer that names another beginning or end of text than the model was trained with."""
    for role, named, declared in conflicting_special_tokens(arch, tokenizer):
        raise InputError(
            f"tokenizer {tokenizer.name!r}: its {role}_token has id {named}, while the model's {role}_token_id is "
            f"{declared}; give the tokenizer the model was trained with, or, if the training configuration was "
            "wrong there, --special-tokens tokenizer"
        )


def take_special_tokens(arch: Architecture, tokenizer: TokenizerFiles) -> Architecture:
    """Return ``arch`` with the special token ids that the tokenizer names in place of its own."""
    named = {f"{role}_token_id": tokenizer.special_id(role) for role in ("bos", "eos", "pad")}
    return replace(arch, **{key: value for key, value in named.items() if value is not None})  # type: ignore[arg-type]
