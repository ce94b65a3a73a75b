"""What a Hugging Face folder must be like to become a Nanotron checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.dtypes import Dtype, chosen_dtype
from nanotron_zagreus.conversion.tensor_reading import HFTensors
from nanotron_zagreus.conversion.weight_map import hf_rows
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

_TIED_HEAD = "lm_head.weight"
_OLD_BUFFER = ".rotary_emb.inv_freq"


def check_sizes(arch: Architecture, tp: int, pp: int) -> None:
    """Refuse a tp or pp that the model cannot be divided by."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(arch, name)
        if size % tp:
            raise InputError(f"tp: {name} / tp = {size} / {tp} is not whole; choose a tp that divides it")
    if pp > arch.num_hidden_layers:
        raise InputError(f"pp: got {pp} for num_hidden_layers {arch.num_hidden_layers}; a rank needs a layer")


def check_tensors(tensors: HFTensors, arch: Architecture) -> list[str]:
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


def stored_dtype(tensors: HFTensors, arch: Architecture, dtype: Dtype | None, notices: list[str]) -> str:
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


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
