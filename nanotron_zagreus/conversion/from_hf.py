"""Turn a Hugging Face Llama into a Nanotron checkpoint that training starts from by `init_method.path`.

One Nanotron tensor is in memory at a time. The result is read back and compared with the source, in
weights, configuration and fp32 logits, before the folder gets its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus import __version__
from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.layout import METADATA_FILE, MODEL_CONFIG_FILE
from nanotron_zagreus.checkpoints.model_shards_writing import Placement, write_tensor_shards
from nanotron_zagreus.conversion.dtypes import Dtype, cast, chosen_dtype
from nanotron_zagreus.conversion.hf_architecture import read_hf_architecture
from nanotron_zagreus.conversion.hf_config import write_json
from nanotron_zagreus.conversion.nanotron_layout import (
    CHECKPOINT_VERSIONS,
    CheckpointFormat,
    block_prefix,
    checkpoint_metadata,
    nanotron_model_config,
    pipeline_ranks,
    tensor_split,
)
from nanotron_zagreus.conversion.record import RECORD_FILE, ImportRecord
from nanotron_zagreus.conversion.staging import check_destination, check_space, staged_folder
from nanotron_zagreus.conversion.tensor_reading import HFTensors
from nanotron_zagreus.conversion.weight_map import EMBEDDING, LM_HEAD, hf_rows, nanotron_tensors
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

_TIED_HEAD = "lm_head.weight"
_OLD_BUFFER = ".rotary_emb.inv_freq"


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
    progress: Progress | None = None,
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
    for name, size in (("tp", tp), ("pp", pp), ("make_vocab_size_divisible_by", make_vocab_size_divisible_by)):
        if size < 1:
            raise InputError(f"{name}: got {size}, expected a whole number of at least 1")
    arch = read_hf_architecture(hf_folder)
    _check_sizes(arch, tp, pp)
    tensors = HFTensors.open(hf_folder)
    notices = _check_tensors(tensors, arch)
    stored = _stored_dtype(tensors, arch, dtype, notices)
    multiple = tp * make_vocab_size_divisible_by
    padded = dataclasses.replace(arch, vocab_size=-(-arch.vocab_size // multiple) * multiple)
    if padded.vocab_size > arch.vocab_size:
        notices.append(_padding_notice(arch, padded, engine))
    check_space(out, padded.num_parameters * (2 if stored == "BF16" else 4) + (64 << 20))
    report = progress or (lambda *_: None)
    with staged_folder(out) as folder:
        _write_tensors(folder, tensors, arch, padded, stored, (tp, pp, engine), report)
        write_json(folder / MODEL_CONFIG_FILE, nanotron_model_config(padded, engine))
        write_json(folder / METADATA_FILE, checkpoint_metadata(tp, engine))
        verification = None
        if verify:
            report("verify", 0, 1)
            from nanotron_zagreus.conversion.verify_import import verify_checkpoint

            verification = verify_checkpoint(folder, hf_folder, arch, stored)
            report("verify", 1, 1)
        record = ImportRecord(
            source=str(hf_folder),
            tp=tp,
            pp=pp,
            engine=engine,
            architecture=dataclasses.asdict(padded),
            source_vocab_size=arch.vocab_size,
            dtype=stored,
            verification=verification,
            notices=tuple(notices),
            converter_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(folder / RECORD_FILE, dataclasses.asdict(record))
    return record


def _check_sizes(arch: Architecture, tp: int, pp: int) -> None:
    """Refuse a tp or pp that the model cannot be divided by."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(arch, name)
        if size % tp:
            raise InputError(f"tp: {name} / tp = {size} / {tp} is not whole; choose a tp that divides it")
    if pp > arch.num_hidden_layers:
        raise InputError(f"pp: got {pp} for num_hidden_layers {arch.num_hidden_layers}; a rank needs a layer")


def _check_tensors(tensors: HFTensors, arch: Architecture) -> list[str]:
    """Refuse a folder whose tensors are not the model's; return what deserves a remark."""
    wanted = {name: rows.shape for name, rows in hf_rows(arch).items()}
    notices = []
    missing = [name for name in wanted if name not in tensors.files]
    if missing:
        raise InputError(f"{tensors.folder}: {len(missing)} tensors are missing, first {missing[0]}; copy it again")
    for name, shape in wanted.items():
        if tensors.shapes[name] != shape:
            raise InputError(f"{tensors.folder}: {name} has shape {tensors.shapes[name]}, config.json means {shape}")
    surplus = [name for name in tensors.files if name not in wanted]
    if _TIED_HEAD in surplus and arch.tie_word_embeddings:
        surplus.remove(_TIED_HEAD)
        if not _same(tensors.read(_TIED_HEAD), tensors.read("model.embed_tokens.weight")):
            raise InputError(
                f"{tensors.folder}: config.json ties the embeddings, but {_TIED_HEAD} differs from the embedding; "
                "transformers 4 and 5 disagree about such a folder, set tie_word_embeddings to what was trained"
            )
    buffers = [name for name in surplus if name.endswith(_OLD_BUFFER)]
    if buffers:
        notices.append(f"{len(buffers)} stored rotary buffers left out: the training model computes them")
    foreign = [name for name in surplus if name not in buffers]
    if foreign:
        raise InputError(f"{tensors.folder}: {foreign[0]} is no tensor of a plain Llama ({len(foreign)} such)")
    return notices


def _stored_dtype(tensors: HFTensors, arch: Architecture, dtype: Dtype | None, notices: list[str]) -> str:
    """Return the dtype to write, and note when it is not the folder's."""
    found = sorted({tensors.dtypes[name] for name in hf_rows(arch)})
    if not set(found) <= {"BF16", "F16", "F32"}:
        raise InputError(f"{tensors.folder}: weights of dtype {', '.join(found)}; expected BF16, F16 or F32")
    if dtype is None and len(found) > 1:
        raise InputError(f"{tensors.folder}: weights of dtypes {', '.join(found)}; choose one with --dtype")
    stored = chosen_dtype(dtype, "F32" if found == ["F16"] else found[0])
    if found != [stored]:
        notices.append(f"weights stored as {', '.join(found)} were written as {stored}")
    return stored


def _write_tensors(
    folder: Path,
    tensors: HFTensors,
    arch: Architecture,
    padded: Architecture,
    stored: str,
    target: tuple[int, int, CheckpointFormat],
    report: Progress,
) -> None:
    """Write every tensor's shards, one tensor in memory at a time."""
    tp, pp, engine = target
    ranks = pipeline_ranks(padded, pp)
    total = 3 + 6 * arch.num_hidden_layers
    produced = nanotron_tensors(arch, lambda name: cast(tensors.read(name), stored))
    for done, (name, heights, tensor) in enumerate(produced):
        report("write", done, total)
        if name in (EMBEDDING, LM_HEAD):
            tensor = _pad_rows(tensor, padded.vocab_size, engine)
        placement = Placement(tp, pp, ranks[block_prefix(name)])
        write_tensor_shards(folder, name, tensor, tensor_split(name, heights), placement, CHECKPOINT_VERSIONS[engine])
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


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
