"""Read the `model/` folder of a Nanotron checkpoint: one safetensors file per tensor and rank.

Needs no engine, process group or GPU. Opening reads headers only and refuses a folder that does not
hold every element of every tensor exactly once; `stored_tensor` then gives whole tensors, or some of
their rows, from memory-mapped shards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nanotron_zagreus.checkpoints.shard_metadata import covers_exactly, parse_shape, parse_slice_pairs
from nanotron_zagreus.checkpoints.stored_tensor import (
    DATA_KEY,
    ModelShards,
    Shard,
    StoredTensor,
    open_tensor_file,
    whole_pair,
)
from nanotron_zagreus.errors import InputError, MissingInputError

_FILE_NAME = re.compile(
    r"model_(?P<leaf>\w+?)"
    r"(_pp-rank-(?P<pp>\d+)-of-(?P<pp_size>\d+)_tp-rank-(?P<tp>\d+)-of-(?P<tp_size>\d+))?"
    r"(?P<expert>_exp-rank-\d+-of-\d+)?\.safetensors"
)
_PICKLES = (".pt", ".pth", ".bin")


def open_model_shards(checkpoint: Path) -> ModelShards:
    """Return the tensors of ``checkpoint`` (one step's folder), from their headers.

    Raises:
        MissingInputError: no `model/` folder, or no safetensors in it.
        InputError: a truncated or foreign file, a missing shard, or shards of two layouts in one folder.
    """
    folder = checkpoint / "model"
    if not folder.is_dir():
        raise MissingInputError(f"{checkpoint}: no folder `model` in it; give the folder of one step of a checkpoint")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found: dict[str, list[Shard]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            name, shard = _read_header(path, folder)
            found.setdefault(name, []).append(shard)
    if not found:
        pickles = [path.name for path in files if path.suffix in _PICKLES]
        advice = f"; {pickles[0]} is a pickle, which is never loaded" if pickles else ""
        raise MissingInputError(f"{folder}: no safetensors file in it{advice}; save the checkpoint as safetensors")
    pp, tp = _single_layout(folder, found)
    tensors = {name: _assemble(name, shards, tp) for name, shards in found.items()}
    versions = {shard.version for shards in found.values() for shard in shards if shard.version}
    return ModelShards(folder, tensors, tp, pp, tuple(sorted(versions)))


def _read_header(path: Path, folder: Path) -> tuple[str, Shard]:
    """Return the parameter name and the shard that ``path`` holds, reading only its header."""
    match = _FILE_NAME.fullmatch(path.name)
    if not match:
        raise InputError(f"{path}: unknown file name, expected model_<name>[_pp-rank-…_tp-rank-…].safetensors")
    if match["expert"]:
        raise InputError(f"{path}: a shard of a mixture of experts; only dense models are known")
    with open_tensor_file(path) as file:
        if list(file.keys()) != [DATA_KEY]:
            raise InputError(f"{path}: holds keys {sorted(file.keys())[:4]}, expected only 'data'")
        header = file.get_slice(DATA_KEY)
        shape, dtype = tuple(header.get_shape()), str(header.get_dtype())
        metadata = file.metadata() or {}
    name = ".".join((*path.parent.relative_to(folder).parts, match["leaf"]))
    rank, sizes = None, None
    if match["tp"]:
        rank, sizes = (int(match["pp"]), int(match["tp"])), (int(match["pp_size"]), int(match["tp_size"]))
    if "local_global_slices_pairs" in metadata and "unsharded_shape" in metadata:
        try:
            whole = parse_shape(metadata["unsharded_shape"])
            pairs = parse_slice_pairs(metadata["local_global_slices_pairs"], shape, whole)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    elif sizes is None or sizes[1] == 1:
        whole, pairs = shape, (whole_pair(shape),)
    else:
        raise InputError(
            f"{path}: one of {sizes[1]} shards, without the metadata that says which part it is (a checkpoint older "
            "than version 1.2); save it again with nanotron 0.4 or newer"
        )
    if not covers_exactly([pair.local for pair in pairs], shape):
        raise InputError(f"{path}: its slices do not use every one of its elements once; the file is damaged")
    return name, Shard(path, shape, whole, pairs, dtype, metadata.get("version"), rank, sizes)


def _single_layout(folder: Path, found: dict[str, list[Shard]]) -> tuple[int, int]:
    """Return the (pp, tp) sizes all shards agree on."""
    counts: dict[tuple[int, int], int] = {}
    for shards in found.values():
        for shard in shards:
            if shard.sizes is not None:
                counts[shard.sizes] = counts.get(shard.sizes, 0) + 1
    if len(counts) > 1:
        listing = ", ".join(f"{number} files of pp={pp} tp={tp}" for (pp, tp), number in sorted(counts.items()))
        raise InputError(
            f"{folder}: shards of {len(counts)} layouts in one folder ({listing}); keep the files of one run only"
        )
    return next(iter(counts), (1, 1))


def _assemble(name: str, shards: Sequence[Shard], tp: int) -> StoredTensor:
    """Return the tensor that ``shards`` make up, or refuse them with the file that is missing or doubled."""
    first = shards[0]
    shape = first.whole_shape
    for shard in shards:
        if shard.dtype != first.dtype:
            raise InputError(f"{shard.path}: dtype {shard.dtype}, while {first.path.name} has {first.dtype}")
        if shard.whole_shape != shape:
            raise InputError(
                f"{shard.path}: belongs to a tensor of shape {shard.whole_shape}, while {first.path.name} belongs to "
                f"{shape}"
            )
    ranks = [shard.rank[1] for shard in shards if shard.rank is not None]
    missing = sorted(set(range(tp)) - set(ranks))
    if ranks and missing:
        raise MissingInputError(
            f"{first.path.parent}: shard tp-rank-{missing[0]}-of-{tp} of {name} is missing ({len(missing)} of {tp} "
            "are); without a shared file system each node keeps only its own, copy the other nodes' files here"
        )
    if not covers_exactly([pair.whole for shard in shards for pair in shard.pairs], shape):
        names = ", ".join(shard.path.name for shard in shards[:4])
        raise InputError(
            f"{first.path.parent}: the shards of {name} do not hold every element of {shape} once ({names}); "
            "remove the files of other runs"
        )
    return StoredTensor(name, shape, first.dtype, tuple(shards))
