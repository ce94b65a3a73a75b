"""The number formats of weights, in the words of users, safetensors and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["bfloat16", "float32"]
"""What a user may ask for."""

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Stored dtypes this project converts, as safetensors and torch name them."""

_STORED: dict[Dtype, str] = {"bfloat16": "BF16", "float32": "F32"}


def chosen_dtype(asked: Dtype | None, default: str) -> str:
    """Return safetensors' name of what the user asked for, or ``default``."""
    return default if asked is None else _STORED[asked]


def cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return ``tensor`` in the dtype that safetensors calls ``dtype``; the same tensor when it is that already."""
    import torch

    return tensor.to(getattr(torch, TORCH_NAMES[dtype]))
