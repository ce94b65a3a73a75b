"""Write tensors into the `model/` folder of a Nanotron checkpoint, in the engine's own byte format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.shard_metadata import Box, SlicePair, format_slice_pairs
from nanotron_zagreus.checkpoints.stored_tensor import DATA_KEY
from nanotron_zagreus.checkpoints.tensor_file import write_tensors
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Split:
    """How tensor parallelism divides a tensor."""

    dim: int
    """The dimension that is divided: 0 for column-parallel linears and embeddings, 1 for row-parallel linears."""
    chunks: tuple[int, ...] | None = None
    """Sizes of fused parts along ``dim``, each divided by itself (q, k, v; gate, up); None: one part."""


@dataclass(frozen=True)
class Placement:
    """The rank layout a tensor is written for."""

    tp: int
    """Tensor-parallel size."""
    pp: int
    """Pipeline-parallel size."""
    pp_rank: int
    """Pipeline rank that holds the tensor."""


@dataclass(frozen=True)
class ShardRank:
    """The rank that holds one shard, for the shard's file name."""

    tp: int
    tp_size: int
    pp: int
    pp_size: int


def shard_path(name: str, rank: ShardRank | None) -> Path:
    """Return the file of a tensor, or of one of its shards, below a step's folder; all engines agree.

    Args:
        name: dotted parameter name, such as `model.final_layer_norm.pp_block.weight`.
        rank: the rank that holds the shard; None for a tensor every rank holds whole (norms).
    """
    *folders, leaf = name.split(".")
    suffix = f"_pp-rank-{rank.pp}-of-{rank.pp_size}_tp-rank-{rank.tp}-of-{rank.tp_size}" if rank is not None else ""
    return Path("model", *folders, f"model_{leaf}{suffix}.safetensors")


def write_tensor_shards(
    checkpoint: Path, name: str, tensor: torch.Tensor, split: Split | None, placement: Placement, version: str
) -> None:
    """Write one tensor as every tensor-parallel rank of its pipeline rank would.

    Args:
        checkpoint: the step's folder.
        name: dotted parameter name, such as `model.final_layer_norm.pp_block.weight`.
        tensor: the whole tensor.
        split: None for a tensor every rank holds whole (norms): one file, no metadata.
        placement: sizes and rank that go into the file's name.
        version: checkpoint version of the metadata.

    Raises:
        InputError: the tensor does not divide by tp.
    """
    whole = checkpoint / shard_path(name, None)
    whole.parent.mkdir(parents=True, exist_ok=True)
    if split is None:
        write_tensors(whole, {DATA_KEY: tensor}, {})
        return
    for rank in range(placement.tp):
        pairs = slice_pairs(tuple(tensor.shape), split, rank, placement.tp, name)
        metadata = {
            "version": version,
            "local_global_slices_pairs": format_slice_pairs(pairs, split.dim, open_local=split.chunks is None),
            "unsharded_shape": str(tuple(tensor.shape)),
        }
        path = shard_path(name, ShardRank(rank, placement.tp, placement.pp_rank, placement.pp))
        write_tensors(checkpoint / path, {DATA_KEY: take_shard(tensor, pairs, split.dim)}, metadata)


def slice_pairs(shape: Sequence[int], split: Split, rank: int, tp: int, name: str) -> tuple[SlicePair, ...]:
    """Return which boxes of a tensor of ``shape`` rank ``rank`` of ``tp`` holds, and where in its shard they lie."""
    pairs = []
    local_start = whole_start = 0
    for chunk in split.chunks or (shape[split.dim],):
        if chunk % tp:
            raise InputError(
                f"{name}: {chunk} / tp = {chunk} / {tp} is not whole along dimension {split.dim}; change tp"
            )
        length = chunk // tp
        local = (local_start, local_start + length)
        whole = (whole_start + rank * length, whole_start + (rank + 1) * length)
        pairs.append(SlicePair(_box(shape, split.dim, local), _box(shape, split.dim, whole)))
        local_start, whole_start = local_start + length, whole_start + chunk
    return tuple(pairs)


def take_shard(tensor: torch.Tensor, pairs: Sequence[SlicePair], dim: int) -> torch.Tensor:
    """Return the shard that ``pairs`` describe, contiguous."""
    import torch

    pieces = [tensor[tuple(slice(*span) for span in pair.whole)] for pair in pairs]
    return torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0].contiguous()


def _box(shape: Sequence[int], dim: int, span: tuple[int, int]) -> Box:
    return tuple(span if index == dim else (0, size) for index, size in enumerate(shape))
