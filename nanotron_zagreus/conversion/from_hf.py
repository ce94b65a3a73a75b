"""Turn a Hugging Face Llama into a Nanotron checkpoint that training starts from by `init_method.path`.

One Nanotron tensor is in memory at a time. The result is read back and compared with the source, in
weights, configuration and fp32 logits, before the folder gets its name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus import __version__
from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.layout import METADATA_FILE, MODEL_CONFIG_FILE
from nanotron_zagreus.checkpoints.manifest import records_of, write_manifest
from nanotron_zagreus.checkpoints.model_shards_writing import Placement, write_tensor_shards
from nanotron_zagreus.conversion.dtypes import Dtype, cast
from nanotron_zagreus.conversion.hf_architecture import read_hf_architecture
from nanotron_zagreus.conversion.hf_config import write_json
from nanotron_zagreus.conversion.import_checks import check_sizes, check_tensors, stored_dtype
from nanotron_zagreus.conversion.model_section import MODEL_SECTION_FILE, model_section, section_text
from nanotron_zagreus.conversion.nanotron_layout import (
    CHECKPOINT_VERSIONS,
    CheckpointFormat,
    block_prefix,
    checkpoint_metadata,
    nanotron_model_config,
    pipeline_ranks,
    tensor_split,
)
from nanotron_zagreus.conversion.progress import Progress, silent
from nanotron_zagreus.conversion.record import RECORD_FILE, ImportRecord
from nanotron_zagreus.conversion.staging import check_destination, check_outside, check_space, staged_folder
from nanotron_zagreus.conversion.tensor_reading import HFTensors
from nanotron_zagreus.conversion.weight_map import EMBEDDING, LM_HEAD, nanotron_tensors
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

    from nanotron_zagreus.conversion.verify import Verification


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """An import whose every input has been checked."""

    folder: Path
    tensors: HFTensors
    arch: Architecture
    """The source's model."""
    padded: Architecture
    """The model as written, its vocabulary padded."""
    dtype: str
    """As safetensors names it."""
    tp: int
    pp: int
    engine: CheckpointFormat
    make_vocab_size_divisible_by: int
    notices: tuple[str, ...]


def import_folder(
    hf_folder: Path,
    out: Path,
    *,
    tp: int = 1,
    pp: int = 1,
    engine: CheckpointFormat = "0.4",
    dtype: Dtype | None = None,
    make_vocab_size_divisible_by: int = 1,
    verify: bool = True,
    progress: Progress = silent,
) -> ImportRecord:
    """Write the Llama in ``hf_folder`` as a checkpoint ``out``; the folder appears whole and verified or not at all.

    Args:
        hf_folder: a Hugging Face folder with safetensors weights, in one file or several.
        out: the folder to make; it must not exist or be empty.
        tp: tensor-parallel size to write for; training reads it at any other.
        pp: pipeline-parallel size to write for.
        engine: whose files to write: nanotron 0.4's or upstream main's.
        dtype: dtype to write; None keeps the folder's (float16 is widened to float32).
        make_vocab_size_divisible_by: the training configuration's value: rows are added up to a multiple of it x tp.
        verify: compare the result with the source before naming the folder.
        progress: told about the work as it goes.

    Raises:
        InputError: the folder, the sizes or the destination cannot be used; nothing was written.
        VerificationError: the written checkpoint does not compute what the folder computes; it was removed.
    """
    check_destination(out)
    check_outside(out, hf_folder)
    plan = _plan(hf_folder, tp, pp, engine, dtype, make_vocab_size_divisible_by)
    check_space(out, plan.padded.num_parameters * (2 if plan.dtype == "BF16" else 4) + (64 << 20))
    with staged_folder(out) as folder:
        _write_tensors(folder, plan, progress)
        write_json(folder / MODEL_CONFIG_FILE, nanotron_model_config(plan.padded, engine))
        write_json(folder / METADATA_FILE, checkpoint_metadata(tp, engine))
        verification = None
        if verify:
            progress("verify", 0, 1)
            from nanotron_zagreus.conversion.verify_import import verify_checkpoint

            verification = verify_checkpoint(folder, hf_folder, plan.arch, plan.dtype)
            progress("verify", 1, 1)
        record = _record(plan, out, verification)
        write_json(folder / RECORD_FILE, dataclasses.asdict(record))
        (folder / MODEL_SECTION_FILE).write_text(section_text(record.model_section), encoding="utf-8")
        topology = {"dp": 1, "tp": tp, "pp": pp}
        write_manifest(
            folder, records_of(folder), {"topology": topology, "versions": {"nanotron-zagreus": __version__}}
        )
    return record


def _plan(hf_folder: Path, tp: int, pp: int, engine: CheckpointFormat, dtype: Dtype | None, divisible_by: int) -> _Plan:
    """Check every input, or refuse."""
    for name, size in (("tp", tp), ("pp", pp), ("make_vocab_size_divisible_by", divisible_by)):
        if size < 1:
            raise InputError(f"{name}: got {size}, expected a whole number of at least 1")
    arch = read_hf_architecture(hf_folder)
    check_sizes(arch, tp, pp)
    tensors = HFTensors.open(hf_folder)
    notices = check_tensors(tensors, arch)
    stored = stored_dtype(tensors, arch, dtype, notices)
    multiple = tp * divisible_by
    padded = dataclasses.replace(arch, vocab_size=-(-arch.vocab_size // multiple) * multiple)
    if padded.vocab_size > arch.vocab_size:
        notices.append(_padding_notice(arch, padded, engine))
    if isinstance(arch.eos_token_id, tuple):
        notices.append(
            f"config.json names several eos_token_id, {list(arch.eos_token_id)}: training knows one, the first is used"
        )
    return _Plan(
        folder=hf_folder,
        tensors=tensors,
        arch=arch,
        padded=padded,
        dtype=stored,
        tp=tp,
        pp=pp,
        engine=engine,
        make_vocab_size_divisible_by=divisible_by,
        notices=tuple(notices),
    )


def _record(plan: _Plan, out: Path, verification: Verification | None) -> ImportRecord:
    return ImportRecord(
        source=str(plan.folder),
        tp=plan.tp,
        pp=plan.pp,
        engine=plan.engine,
        architecture=dataclasses.asdict(plan.padded),
        source_vocab_size=plan.arch.vocab_size,
        dtype=plan.dtype,
        model_section=model_section(plan.arch, out, plan.dtype, plan.make_vocab_size_divisible_by),
        verification=verification,
        notices=plan.notices,
        converter_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write_tensors(folder: Path, plan: _Plan, report: Progress) -> None:
    """Write every tensor's shards, one tensor in memory at a time."""
    ranks = pipeline_ranks(plan.padded, plan.pp)
    total = 3 + 6 * plan.arch.num_hidden_layers
    produced = nanotron_tensors(plan.arch, lambda name: cast(plan.tensors.read(name), plan.dtype))
    for done, (name, heights, tensor) in enumerate(produced):
        report("write", done, total)
        if name in (EMBEDDING, LM_HEAD):
            tensor = _pad_rows(tensor, plan.padded.vocab_size, plan.engine)
        placement = Placement(plan.tp, plan.pp, ranks[block_prefix(name)])
        version = CHECKPOINT_VERSIONS[plan.engine]
        write_tensor_shards(folder, name, tensor, tensor_split(name, heights), placement, version)
    report("write", total, total)


def _pad_rows(tensor: torch.Tensor, num_rows: int, engine: CheckpointFormat) -> torch.Tensor:
    """Return ``tensor`` `[vocab_size, hidden_size]` with rows added up to ``num_rows``.

    This project's model leaves padded rows out of the softmax and starts them at zero. Upstream's counts
    them; there the mean row raises the softmax's sum by at most k / vocab_size for k rows, by Jensen's
    inequality (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    import torch

    if tensor.shape[0] == num_rows:
        return tensor
    row = torch.zeros_like(tensor[0]) if engine == "0.4" else tensor.float().mean(0).to(tensor.dtype)
    return torch.cat((tensor, row.expand(num_rows - tensor.shape[0], -1)))


def _padding_notice(arch: Architecture, padded: Architecture, engine: CheckpointFormat) -> str:
    rows = padded.vocab_size - arch.vocab_size
    kind = "rows of zeros, which training leaves out of the softmax" if engine == "0.4" else "copies of the mean row"
    return f"vocabulary padded from {arch.vocab_size} to {padded.vocab_size} rows: {rows} {kind}"
