"""The random states of one rank, as safetensors: nothing in a checkpoint is ever unpickled."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from nanotron_zagreus.checkpoints.tensor_file import write_tensors
from nanotron_zagreus.errors import InputError


@dataclass(frozen=True)
class RandomState:
    """The states of Python's, numpy's and torch's generators."""

    tensors: dict[str, torch.Tensor]
    scalars: dict[str, list[Any]]


def current_random_state() -> RandomState:
    """Return a copy of the states of all generators on this rank."""
    version, state, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    tensors = {
        "python": torch.tensor(state, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "torch_cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["torch_cuda"] = torch.cuda.get_rng_state()
    scalars = {"python": [version, gauss], "numpy": [str(name), int(position), int(has_gauss), float(cached)]}
    return RandomState(tensors, scalars)


def write_random_state(path: Path, state: RandomState) -> tuple[int, str]:
    """Write a state to a file, durably; return the file's size in bytes and its sha256."""
    return write_tensors(path, state.tensors, {"scalars": json.dumps(state.scalars)})


def restore_random_state(path: Path) -> None:
    """Set this rank's generators to what :func:`write_random_state` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            scalars = json.loads(file.metadata()["scalars"])
        version, gauss = scalars["python"]
        name, position, has_gauss, cached = scalars["numpy"]
        random.setstate((version, tuple(tensors["python"].tolist()), gauss))
        np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
        torch.random.set_rng_state(tensors["torch_cpu"])
        if torch.cuda.is_available() and "torch_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["torch_cuda"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as random states ({error}); the checkpoint is damaged") from error
