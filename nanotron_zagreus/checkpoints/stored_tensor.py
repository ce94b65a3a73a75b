"""Tensors of a Nanotron checkpoint as their shards hold them, read without the engine.

A stored tensor knows its files, its whole shape and which box of it each file holds; reading places the
boxes. `model_shards` finds and checks the files, the meaning of the tensors is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanotron_zagreus.checkpoints.shard_metadata import SlicePair
from nanotron_zagreus.errors import InputError

if TYPE_CHECKING:
    import torch

DATA_KEY = "data"
"""The one key of every file."""


@dataclass(frozen=True)
class Shard:
    """One file: a part of a tensor, or all of it."""

    path: Path
    shape: tuple[int, ...]
    whole_shape: tuple[int, ...]
    """Shape of the tensor it belongs to."""
    pairs: tuple[SlicePair, ...]
    dtype: str
    """As safetensors names it: BF16, F32, …"""
    version: str | None
    """Checkpoint version the engine wrote; None in files of unsharded tensors."""
    rank: tuple[int, int] | None
    """(pp, tp) rank that wrote the file; None for a tensor every rank holds whole."""
    sizes: tuple[int, int] | None
    """(pp, tp) sizes of the run that wrote it."""


@dataclass(frozen=True)
class StoredTensor:
    """A whole tensor as its shards hold it."""

    name: str
    """Dotted parameter name, such as `model.decoder.0.pp_block.attn.o_proj.weight`."""
    shape: tuple[int, ...]
    dtype: str
    shards: tuple[Shard, ...]

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` (all by default), in the stored dtype, bit for bit.

        A tensor that lies in one file comes as a view of the mapped file: do not write to it.
        """
        import torch

        stop = self.shape[0] if stop is None else stop
        if len(self.shards) == 1 and self.shards[0].pairs == (whole_pair(self.shape),):
            return _load(self.shards[0].path)[start:stop]
        rows: torch.Tensor | None = None
        for shard in self.shards:
            data = _load(shard.path)
            if rows is None:
                rows = torch.empty((stop - start, *self.shape[1:]), dtype=data.dtype)
            for pair in shard.pairs:
                _copy_rows(data, pair, rows, start, stop)
        if rows is None:
            raise InputError(f"{self.name}: no shard holds this tensor")
        return rows


@dataclass(frozen=True)
class ModelShards:
    """All tensors of one checkpoint, and the layout that wrote them."""

    folder: Path
    tensors: dict[str, StoredTensor]
    tp: int
    pp: int
    versions: tuple[str, ...]
    """Checkpoint versions found in the shards, such as `1.2` (nanotron 0.4) or `1.5` (upstream main)."""

    def expect(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuse a folder whose tensors are not exactly those named in ``shapes``, with these shapes."""
        missing = [name for name in shapes if name not in self.tensors]
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(shapes)} tensors are missing, first {missing[0]}; without a "
                "shared file system each node keeps only its own shards, copy the other nodes' files here"
            )
        unknown = [name for name in self.tensors if name not in shapes]
        if unknown:
            raise InputError(
                f"{self.folder}: {len(unknown)} tensors do not belong to a model of this model_config.json, first "
                f"{unknown[0]}; is the model_config.json of another model?"
            )
        for name, shape in shapes.items():
            if self.tensors[name].shape != shape:
                raise InputError(
                    f"{self.folder}: {name} has shape {self.tensors[name].shape}, model_config.json means {shape}"
                )


def whole_pair(shape: Sequence[int]) -> SlicePair:
    """Return the pair that maps a whole tensor onto itself."""
    box = tuple((0, size) for size in shape)
    return SlicePair(box, box)


def _copy_rows(data: torch.Tensor, pair: SlicePair, rows: torch.Tensor, start: int, stop: int) -> None:
    """Copy the part of ``pair`` that lies in rows ``start`` to ``stop`` of the whole tensor into ``rows``."""
    (local_start, _), (whole_start, whole_stop) = pair.local[0], pair.whole[0]
    first, last = max(start, whole_start), min(stop, whole_stop)
    if first >= last:
        return
    offset = local_start - whole_start
    source = (slice(first + offset, last + offset), *(slice(*span) for span in pair.local[1:]))
    target = (slice(first - start, last - start), *(slice(*span) for span in pair.whole[1:]))
    rows[target] = data[source]


def open_tensor_file(path: Path) -> Any:
    """Open a safetensors file; its library checks that header and size agree."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(
            f"{path}: damaged or cut off ({error}); copy the file again from where it was saved"
        ) from error


def _load(path: Path) -> torch.Tensor:
    """Return the tensor of one shard, memory-mapped."""
    with open_tensor_file(path) as file:
        return file.get_tensor(DATA_KEY)
