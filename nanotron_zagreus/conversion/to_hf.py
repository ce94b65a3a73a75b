"""Turn a Nanotron checkpoint into a Hugging Face folder, and prove the result before it gets its name.

Streaming: one Hugging Face tensor is in memory at a time, beside the memory-mapped shards it comes from.
Neither a GPU nor the training engine is involved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanotron_zagreus import __version__
from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.tensor_file import TensorSpec
from nanotron_zagreus.conversion.dtypes import Dtype, cast, chosen_dtype
from nanotron_zagreus.conversion.eval_scores import EvaluatedModel, Score, read_scores
from nanotron_zagreus.conversion.gguf_export import GGUFType, check_gguf, write_gguf
from nanotron_zagreus.conversion.hf_config import generation_config, hf_config, write_json
from nanotron_zagreus.conversion.hf_weights import write_weights
from nanotron_zagreus.conversion.model_card import CardDetails, write_model_card
from nanotron_zagreus.conversion.progress import Progress, silent
from nanotron_zagreus.conversion.record import RECORD_FILE, ConversionRecord
from nanotron_zagreus.conversion.source import SourceCheckpoint, open_checkpoint
from nanotron_zagreus.conversion.staging import check_destination, check_outside, check_space, staged_folder
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles, find_tokenizer, write_tokenizer
from nanotron_zagreus.conversion.training_figures import training_figures
from nanotron_zagreus.conversion.vocabulary import (
    check_identity,
    check_special_tokens,
    fit_vocabulary,
    take_special_tokens,
)
from nanotron_zagreus.conversion.weight_map import EMBEDDING, LM_HEAD, hf_rows, read_hf_tensor
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

SpecialTokens = Literal["agree", "tokenizer", "config"]

_SMALL_FILES_BYTES = 64 << 20
"""Room for the tokenizer, the records and the card."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
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


def convert_checkpoint(
    checkpoint: Path,
    out: Path,
    tokenizer: str | Path,
    *,
    dtype: Dtype | None = None,
    verify: bool = True,
    vocab_size: int | None = None,
    special_tokens: SpecialTokens = "agree",
    accept_tokenizer: bool = False,
    masters: bool = False,
    max_file_bytes: int | None = None,
    gguf: GGUFType | None = None,
    card: CardDetails | None = None,
    results: Path | None = None,
    progress: Progress | None = None,
) -> ConversionRecord:
    """Write ``checkpoint`` as a Hugging Face folder ``out``; the folder appears whole and verified or not at all.

    Args:
        checkpoint: one step's folder, or the folder of all steps (the newest is taken).
        out: the folder to make; it must not exist or be empty.
        tokenizer: the tokenizer the model was trained with: a folder, a `tokenizer.json`, or a hub id.
        dtype: dtype to write; None keeps the source's.
        verify: compare weights, configuration and fp32 logits with the checkpoint before naming the folder.
        vocab_size: vocabulary rows to keep, for a model with more rows than padding explains.
        special_tokens: `agree` refuses a tokenizer whose bos or eos differs from the model's configuration;
            `tokenizer` and `config` say which of the two is right.
        accept_tokenizer: take a tokenizer whose file is not the one that the checkpoint's data was made with.
        masters: export the optimizer's fp32 master weights in place of the weights rounded from them.
        max_file_bytes: divide the weights into files of at most this size; None: one file.
        gguf: write a GGUF file of this type, too.
        card: what the model card says beyond the checkpoint.
        results: lm-eval's results for the model card: a file, or a folder of them.
        progress: told about the work as it goes.

    Raises:
        InputError: the checkpoint, tokenizer or destination cannot be used; nothing was written.
        VerificationError: the written folder does not compute what the checkpoint computes; it was removed.
    """
    check_destination(out)
    source = open_checkpoint(checkpoint, masters=masters)
    check_outside(out, source.path)
    arch, files, notices = _fit_tokenizer(source, tokenizer, vocab_size, special_tokens, accept_tokenizer)
    if gguf is not None:
        check_gguf(arch, files, gguf)
    scores, more = _own_scores(results, source, out, card)
    notices = [*source.notices, *notices, *more]
    dtype_written = chosen_dtype(dtype, source.dtype)
    plan = _Plan(
        source=source,
        tokenizer=files,
        arch=arch,
        dtype=dtype_written,
        gguf=gguf,
        card=card,
        scores=scores,
        notices=notices,
    )
    check_space(out, plan.num_bytes)
    with staged_folder(out) as folder:
        return _fill(folder, plan, max_file_bytes, verify, progress or silent)


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
        notices.append(f"accepted as asked: {error}")
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


def _fill(folder: Path, plan: _Plan, max_file_bytes: int | None, verify: bool, report: Progress) -> ConversionRecord:
    """Write everything into ``folder``, prove it, and return the record."""
    weights = write_weights(folder, plan.specs, _producer(plan, report), max_file_bytes)
    write_json(folder / "config.json", hf_config(plan.arch, plan.dtype))
    write_json(folder / "generation_config.json", generation_config(plan.arch))
    notices = [*plan.notices, *write_tokenizer(plan.tokenizer, folder, plan.arch)]
    record = _record(plan, weights=weights, notices=tuple(notices))
    if verify:
        from nanotron_zagreus.conversion.verify import verify_folder

        report("verify", 0, 1)
        record = dataclasses.replace(record, verification=verify_folder(folder, plan.arch, plan.source_tensor))
        report("verify", 1, 1)
    if plan.gguf is not None:
        written = write_gguf(folder, plan.arch, plan.gguf, verify=verify, progress=report)
        record = dataclasses.replace(record, gguf=written)
    write_json(folder / RECORD_FILE, dataclasses.asdict(record))
    write_model_card(folder)
    return record


def _producer(plan: _Plan, report: Progress) -> Callable[[str], torch.Tensor]:
    """Return what gives each Hugging Face tensor when its turn comes to be written."""
    rows = hf_rows(plan.arch)
    done = 0

    def produce(name: str) -> torch.Tensor:
        nonlocal done
        done += 1
        report("write", done, len(rows))
        return cast(read_hf_tensor(rows[name], plan.arch, plan.source.read), plan.dtype)

    return produce


def _record(plan: _Plan, **values: object) -> ConversionRecord:
    source = plan.source
    return ConversionRecord(
        checkpoint=str(source.path),
        step=source.step,
        consumed_samples=source.consumed_samples,
        tp=source.shards.tp,
        pp=source.shards.pp,
        checkpoint_versions=source.shards.versions,
        architecture=dataclasses.asdict(plan.arch),
        stored_vocab_size=source.arch.vocab_size,
        stored_dtype=source.dtype,
        masters=source.masters is not None,
        dtype=plan.dtype,
        tokenizer=plan.tokenizer.name,
        training=training_figures(source.training_config, source.consumed_samples),
        started_from=source.started_from,
        card=None if plan.card is None else dataclasses.asdict(plan.card),
        scores=tuple(dataclasses.asdict(score) for score in plan.scores),
        converter_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **values,  # type: ignore[arg-type]
    )
