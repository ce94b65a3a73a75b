"""Write safetensors files reproducibly, one tensor at a time, hashed on the way.

The safetensors library holds all tensors in memory and orders a header's metadata differently in every
process, so that equal contents give unequal files. The format: 8 bytes with the header's length (little
endian), a JSON header with dtype, shape and offsets of each tensor, then the tensors' bytes.
Source: https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BYTES_PER_ELEMENT = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8, "U8": 1}
"""Stored dtypes this project writes, as safetensors names them."""

_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class TensorSpec:
    """What a file's header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return prod(self.shape) * BYTES_PER_ELEMENT[self.dtype]


def nobody_listens() -> None:
    """Take no notice of a beat."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    beat: Callable[[], None] = nobody_listens,
) -> tuple[int, str]:
    """Write tensors that are in memory, durably; return the file's size in bytes and its sha256.

    Args:
        path: the file to create; it must not exist.
        tensors: by name, in the order they are written.
        metadata: text by name, in the order it is written.
        beat: called after every chunk, so that a slow disk can be told from one that stands still.
    """
    specs = {name: TensorSpec(safetensors_dtype(t.dtype), tuple(t.shape)) for name, t in tensors.items()}
    return write_tensor_file(path, specs, lambda name: tensors[name], metadata, beat)


def write_tensor_file(
    path: Path,
    specs: Mapping[str, TensorSpec],
    produce: Callable[[str], torch.Tensor],
    metadata: Mapping[str, str],
    beat: Callable[[], None] = nobody_listens,
) -> tuple[int, str]:
    """Write the tensors in the order of ``specs``, durably; return the file's size in bytes and its sha256.

    Args:
        path: the file to create; it must not exist.
        specs: name -> dtype and shape.
        produce: gives each tensor when its turn comes; it is dropped after writing.
        metadata: text by name, in the order it is written.
        beat: called after every chunk.
    """
    header = _header(specs, metadata)
    digest, num_bytes = hashlib.sha256(header), len(header)
    with path.open("xb") as file:
        file.write(header)
        for name, spec in specs.items():
            for chunk in _raw_chunks(produce(name), spec, name):
                file.write(chunk)
                digest.update(chunk)
                beat()
            num_bytes += spec.num_bytes
        file.flush()
        os.fsync(file.fileno())
    return num_bytes, digest.hexdigest()


def safetensors_dtype(dtype: torch.dtype) -> str:
    """Return safetensors' name of a torch dtype."""
    import torch

    names = {
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.float32: "F32",
        torch.int64: "I64",
        torch.uint8: "U8",
    }
    return names.get(dtype, str(dtype))


def _header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Return length and JSON header, padded with spaces so that the data starts at a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, spec in specs.items():
        entries[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.num_bytes],
        }
        offset += spec.num_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _raw_chunks(tensor: torch.Tensor, spec: TensorSpec, name: str) -> Iterator[memoryview]:
    """Yield the bytes of ``tensor`` in row-major order, 16 MiB at a time, without a copy of the whole."""
    import torch

    if tuple(tensor.shape) != spec.shape or safetensors_dtype(tensor.dtype) != spec.dtype:
        raise AssertionError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} does not fit {spec}")
    raw = tensor.detach().contiguous().view(torch.uint8).flatten().numpy().data
    for start in range(0, len(raw), _CHUNK_BYTES):
        yield raw[start : start + _CHUNK_BYTES]
