"""The attention kernels a run can choose from. Every one computes what `attention.causal_attention` does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanotron_zagreus.model.attention import causal_attention
from nanotron_zagreus.model.documents import Documents

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Documents | None], torch.Tensor]
"""(query, key, value, documents) -> output, shapes as in `attention.causal_attention`."""


def cudnn_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents | None
) -> torch.Tensor:
    """Attend by cuDNN, whatever torch would choose; documents are not kept apart."""
    assert documents is None, "config.checks refuses it"
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return causal_attention(query, key, value)


def flash_sdpa_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents | None
) -> torch.Tensor:
    """Attend by torch's built-in FlashAttention; documents are not kept apart."""
    assert documents is None, "config.checks refuses it"
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return causal_attention(query, key, value)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents | None,
    options: dict[str, Any] | None = None,
) -> torch.Tensor:
    """Attend by torch's variable-length kernel: the work is the documents' squares, not the row's. CUDA, 16 bits.

    ``options`` are :func:`varlen_options`, found here when not given.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, length = query.shape[:2]
    if documents is None:
        offsets = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=query.device)
    else:
        offsets = documents.offsets
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    out = varlen_attn(query, key, value, offsets, offsets, length, length, **(options or varlen_options()))
    assert isinstance(out, torch.Tensor)
    return out.unflatten(0, (batch, length))


def varlen_options() -> dict[str, Any]:
    """Return what makes torch's variable-length kernel causal and grouped, which each release says differently.

    2.10 has `is_causal`; from 2.11 on it is a window that ends at the token itself. Fewer key than query heads are
    asked for from 2.12 on, and just taken before.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    return {**options, "enable_gqa": True} if "enable_gqa" in known else options


def attention_per_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents | None
) -> torch.Tensor:
    """Attend document by document: the CPU's way to spend no work on pairs that the mask would hide."""
    if documents is None:
        return causal_attention(query, key, value)
    sizes = documents.sizes
    parts = zip(*(x.flatten(0, 1).split(sizes) for x in (query, key, value)), strict=True)
    out = torch.cat([causal_attention(q[None], k[None], v[None])[0] for q, k, v in parts])
    return out.unflatten(0, query.shape[:2])


def flash_attn_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents | None
) -> torch.Tensor:
    """Attend by the flash-attn package; documents are not kept apart."""
    from flash_attn import flash_attn_func

    assert documents is None, "config.checks refuses it"
    return flash_attn_func(query, key, value, causal=True)


KERNELS: dict[str, Kernel] = {
    "sdpa": causal_attention,
    "cudnn": cudnn_attention,
    "flash": flash_sdpa_attention,
    "varlen": varlen_attention,
    "per_document": attention_per_document,
    "flash_attn": flash_attn_attention,
}
"""By their names in `zagreus.attention`."""

_RUN_UNCOMPILED = ("per_document",)
"""Kernels that a compiled block calls as they are: code for one micro-batch's documents is no use to the next."""


def kernel(name: str, *, compiled: bool) -> Kernel:
    """Return the kernel ``name``, ready to be called in a block that is ``compiled`` or not."""
    if name == "varlen":
        # Looked up now: a compiler cannot follow how it is found.
        return functools.partial(varlen_attention, options=varlen_options())
    return torch.compiler.disable(KERNELS[name]) if compiled and name in _RUN_UNCOMPILED else KERNELS[name]
