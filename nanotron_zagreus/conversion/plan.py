"""A conversion to Hugging Face before anything is written: every input read, checked, and made to fit the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.tensor_file import TensorSpec
from nanotron_zagreus.conversion.dtypes import Dtype, cast, chosen_dtype
from nanotron_zagreus.conversion.eval_scores import EvaluatedModel, Score, read_scores
from nanotron_zagreus.conversion.gguf_export import GGUFType, check_gguf
from nanotron_zagreus.conversion.model_card import CardDetails
from nanotron_zagreus.conversion.source import SourceCheckpoint, open_checkpoint
from nanotron_zagreus.conversion.staging import check_outside
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles, find_tokenizer
from nanotron_zagreus.conversion.vocabulary import (
    check_identity,
    check_special_tokens,
    fit_vocabulary,
    take_special_tokens,
)
from nanotron_zagreus.conversion.weight_map import EMBEDDING, LM_HEAD, hf_rows
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

SpecialTokens = Literal["agree", "tokenizer", "config"]

_SMALL_FILES_BYTES = 64 << 20
"""Room for the tokenizer, the records and the card."""


@dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """A conversion whose every input has been checked."""

    source: SourceCheckpoint
    tokenizer: TokenizerFiles
    arch: Architecture
    """The model as written."""
    dtype: str
    """As safetensors names it."""
    gguf: GGUFType | None
    card: CardDetails | None
    scores: list[Score]
    notices: list[str]

    def source_tensor(self, name: str) -> torch.Tensor:
        """Return a whole source tensor, padded vocabulary rows cut, in the dtype that is written."""
        rows = self.arch.vocab_size if name in (EMBEDDING, LM_HEAD) else None
        return cast(self.source.read(name, 0, rows), self.dtype)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """What the weight files will hold."""
        return {name: TensorSpec(self.dtype, rows.shape) for name, rows in hf_rows(self.arch).items()}

    @property
    def num_bytes(self) -> int:
        """Room the folder needs; a GGUF file is never larger than the same weights in float32."""
        weights = sum(spec.num_bytes for spec in self.specs.values())
        return weights + (4 * self.arch.num_parameters if self.gguf else 0) + _SMALL_FILES_BYTES


def plan_conversion(
    checkpoint: Path,
    out: Path,
    tokenizer: str | Path,
    *,
    dtype: Dtype | None,
    vocab_size: int | None,
    special_tokens: SpecialTokens,
    accept_tokenizer: bool,
    masters: bool,
    gguf: GGUFType | None,
    card: CardDetails | None,
    results: Path | None,
) -> ConversionPlan:
    """Return what is to be written; the arguments are those of `to_hf.convert_checkpoint`.

    Raises:
        InputError: an input cannot be used, or does not fit the others.
    """
    source = open_checkpoint(checkpoint, masters=masters)
    check_outside(out, source.path)
    arch, files, notices = _fit_tokenizer(source, tokenizer, vocab_size, special_tokens, accept_tokenizer)
    if gguf is not None:
        check_gguf(arch, files, gguf)
    scores, more = _own_scores(results, source, out, card)
    return ConversionPlan(
        source=source,
        tokenizer=files,
        arch=arch,
        dtype=chosen_dtype(dtype, source.dtype),
        gguf=gguf,
        card=card,
        scores=scores,
        notices=[*source.notices, *notices, *more],
    )


def _fit_tokenizer(
    source: SourceCheckpoint,
    tokenizer: str | Path,
    vocab_size: int | None,
    special_tokens: SpecialTokens,
    accept_tokenizer: bool,
) -> tuple[Architecture, TokenizerFiles, list[str]]:
    """Return the model as written, its tokenizer's files, and what deserves a remark; refuse what does not fit."""
    files = find_tokenizer(tokenizer)
    notices = []
    try:
        check_identity(files, source.tokenizer_hashes)
    except InputError as error:
        if not accept_tokenizer:
            raise
        notices.append(f"accepted as asked: {error}".replace(repr(files.name), repr(files.public_name)))
    arch, more = fit_vocabulary(
        source.arch, files, source.padding_multiple, vocab_size, declared=source.declared_vocab_size
    )
    if special_tokens == "agree":
        check_special_tokens(arch, files)
    elif special_tokens == "tokenizer":
        arch = take_special_tokens(arch, files)
    return arch, files, [*notices, *more]


def _own_scores(
    results: Path | None, source: SourceCheckpoint, out: Path, card: CardDetails | None
) -> tuple[list[Score], list[str]]:
    """Return the scores of this checkpoint or of a folder made of it, and a remark on others' results."""
    if results is None:
        return [], []
    name = card.model_name if card is not None else None
    names = (str(out), str(source.path), *([name] if name else []))
    return read_scores(results, EvaluatedModel(names=names, step=source.step))
