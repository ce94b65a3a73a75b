"""Choose where to evaluate and how many requests go through the model at once."""

from __future__ import annotations

import re
from pathlib import Path

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.errors import InputError

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_MAX_BATCH_SIZE = 64  # lm-eval's own upper bound for its search
_SHARE_OF_FREE_MEMORY = 0.25
# Most requests are far shorter than the context; those that are not still fit, in more memory.
_TYPICAL_TOKENS = 2048
# Logits, their log-softmax, and what torch holds while making it.
_COPIES_OF_LOGITS = 3
_BYTES_PER_NUMBER = 4


def choose_device(device: str) -> str:
    """Return ``device``, or what `auto` stands for here: a CUDA device if there is one, else the CPU.

    Raises:
        InputError: no name of a device, or one of a device that torch does not see.
    """
    import torch

    if not _DEVICE.fullmatch(device):
        raise InputError(f"--device {device}: no device; use auto, cpu, cuda or, for one of several, cuda:0")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"--device {device}: torch sees no CUDA device here; use --device cpu or auto")
        if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            raise InputError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    return device


def check_batch_size(batch_size: str) -> None:
    """Refuse what is neither a positive whole number nor `auto`."""
    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size) > 0):
        raise InputError(f"--batch-size {batch_size}: a positive whole number or auto is expected")


def check_dtype(dtype: str) -> None:
    """Refuse a number format that models are not evaluated in."""
    if dtype not in _DTYPES:
        raise InputError(f"--dtype {dtype}: unknown; choose one of {', '.join(_DTYPES)}")


def choose_batch_size(batch_size: str, device: str, folder: Path) -> str | int:
    """Return the batch size for lm-eval.

    On a GPU `auto` is left to lm-eval, which tries until the memory is enough. On a CPU it must not be
    tried out, since too much memory ends the process: the size comes from the memory of the logits.
    """
    check_batch_size(batch_size)
    if batch_size != "auto":
        return int(batch_size)
    if device != "cpu":
        return "auto"
    import psutil

    config = read_json(folder / "config.json")
    tokens = min(int(config.get("max_position_embeddings", _TYPICAL_TOKENS)), _TYPICAL_TOKENS)
    per_request = tokens * int(config.get("vocab_size", 0) or 1) * _COPIES_OF_LOGITS * _BYTES_PER_NUMBER
    fitting = int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY) // per_request
    return max(1, min(_MAX_BATCH_SIZE, fitting))
