"""Tensor files are those that safetensors writes, byte for byte, and are hashed while they are written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from nanotron_zagreus.checkpoints.tensor_file import TensorSpec, write_tensor_file, write_tensors


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"format": "pt, or as long"}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_a_file_is_safetensors_own(dtype: torch.dtype, metadata: dict[str, str], tmp_path: Path) -> None:
    tensors = {name: torch.arange(12).view(3, 4).t().to(dtype) for name in ("a", "b.weight")}
    path = tmp_path / "x.safetensors"
    beats: list[None] = []
    size, digest = write_tensors(path, tensors, metadata, lambda: beats.append(None))
    content = path.read_bytes()
    assert content == save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata or None)
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert len(beats) == 2


@pytest.mark.parametrize("spec", [TensorSpec("F32", (4, 3)), TensorSpec("BF16", (3, 4))])
def test_a_tensor_that_is_not_what_was_announced_is_not_written(spec: TensorSpec, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not fit"):
        write_tensor_file(tmp_path / "x.safetensors", {"a": spec}, lambda name: torch.zeros(3, 4), {})
