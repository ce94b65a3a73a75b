"""Write a Hugging Face folder's weights, in one file or in several of a given size with their index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.tensor_file import TensorSpec, write_tensor_file
from nanotron_zagreus.conversion.hf_config import write_json
from nanotron_zagreus.conversion.record import WrittenFile
from nanotron_zagreus.conversion.tensor_reading import INDEX_FILE, SINGLE_FILE

if TYPE_CHECKING:
    import torch

_METADATA = {"format": "pt"}
"""transformers before 4.57 refuses a file without it."""


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    produce: Callable[[str], torch.Tensor],
    max_file_bytes: int | None = None,
) -> tuple[WrittenFile, ...]:
    """Write the tensors in the order of ``specs``, one in memory at a time; return the files made.

    Args:
        folder: where to write.
        specs: name -> dtype and shape.
        produce: gives each tensor when its turn comes.
        max_file_bytes: start a new file rather than pass this size (a larger tensor stands alone); None: one file.
    """
    parts = _divide(specs, max_file_bytes)
    if len(parts) == 1:
        return (_write(folder / SINGLE_FILE, specs, parts[0], produce),)
    files: list[WrittenFile] = []
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        path = folder / f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        files.append(_write(path, specs, names, produce))
        weight_map |= dict.fromkeys(names, path.name)
    total = sum(spec.num_bytes for spec in specs.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return tuple(files)


def _divide(specs: Mapping[str, TensorSpec], max_file_bytes: int | None) -> list[list[str]]:
    """Return the tensor names of each file, in order."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if max_file_bytes is not None and parts[-1] and size + spec.num_bytes > max_file_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += spec.num_bytes
    return parts


def _write(
    path: Path, specs: Mapping[str, TensorSpec], names: list[str], produce: Callable[[str], torch.Tensor]
) -> WrittenFile:
    num_bytes, sha256 = write_tensor_file(path, {name: specs[name] for name in names}, produce, _METADATA)
    return WrittenFile(name=path.name, num_bytes=num_bytes, sha256=sha256)
