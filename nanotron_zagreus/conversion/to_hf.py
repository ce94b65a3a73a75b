"""Turn a Nanotron checkpoint into a Hugging Face folder, and prove the result before it gets its name.

Streaming: one Hugging Face tensor is in memory at a time, beside the memory-mapped shards it comes from.
Neither a GPU nor the training engine is involved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus import __version__
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from nanotron_zagreus.conversion.dtypes import Dtype, cast
from nanotron_zagreus.conversion.gguf_export import GGUFType, write_gguf
from nanotron_zagreus.conversion.hf_config import generation_config, hf_config, write_json
from nanotron_zagreus.conversion.hf_weights import write_weights
from nanotron_zagreus.conversion.model_card import CardDetails, write_model_card
from nanotron_zagreus.conversion.plan import ConversionPlan, SpecialTokens, plan_conversion
from nanotron_zagreus.conversion.progress import Progress, silent
from nanotron_zagreus.conversion.record import RECORD_FILE, ConversionRecord, WrittenFile, last_part
from nanotron_zagreus.conversion.staging import check_destination, check_space, staged_folder
from nanotron_zagreus.conversion.tokenizer_files import write_tokenizer
from nanotron_zagreus.conversion.training_figures import training_figures
from nanotron_zagreus.conversion.weight_map import hf_rows, read_hf_tensor

if TYPE_CHECKING:
    import torch


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
    progress: Progress = silent,
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
    plan = plan_conversion(
        checkpoint,
        out,
        tokenizer,
        dtype=dtype,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        accept_tokenizer=accept_tokenizer,
        masters=masters,
        gguf=gguf,
        card=card,
        results=results,
    )
    check_space(out, plan.num_bytes)
    with staged_folder(out) as folder:
        return _fill(folder, plan, max_file_bytes, verify, progress)


def _fill(
    folder: Path, plan: ConversionPlan, max_file_bytes: int | None, verify: bool, report: Progress
) -> ConversionRecord:
    """Write everything into ``folder``, prove it, and return the record."""
    weights = write_weights(folder, plan.specs, _producer(plan, report), max_file_bytes)
    write_json(folder / "config.json", hf_config(plan.arch, plan.dtype))
    write_json(folder / "generation_config.json", generation_config(plan.arch))
    notices = [*plan.notices, *write_tokenizer(plan.tokenizer, folder, plan.arch)]
    record = _record(plan, weights, tuple(notices))
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


def _producer(plan: ConversionPlan, report: Progress) -> Callable[[str], torch.Tensor]:
    """Return what gives each Hugging Face tensor when its turn comes to be written."""
    rows = hf_rows(plan.arch)
    done = 0

    def produce(name: str) -> torch.Tensor:
        nonlocal done
        done += 1
        report("write", done, len(rows))
        return cast(read_hf_tensor(rows[name], plan.arch, plan.source.read), plan.dtype)

    return produce


def _record(plan: ConversionPlan, weights: tuple[WrittenFile, ...], notices: tuple[str, ...]) -> ConversionRecord:
    source = plan.source
    return ConversionRecord(
        checkpoint=last_part(source.path),
        checkpoint_sha256=weights_digest(source.path),
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
        tokenizer=plan.tokenizer.public_name,
        tokenizer_sha256=plan.tokenizer.sha256,
        weights=weights,
        training=training_figures(source.training_config, source.consumed_samples),
        started_from=None if source.started_from is None else last_part(source.started_from),
        card=None if plan.card is None else dataclasses.asdict(plan.card),
        scores=tuple(dataclasses.asdict(score) for score in plan.scores),
        notices=notices,
        converter_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
