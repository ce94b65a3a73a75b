"""Causal attention with grouped query heads in plain torch: the reference of every other kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nanotron_zagreus.model.documents import Documents


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents | None = None
) -> torch.Tensor:
    """Return softmax(query key^T / sqrt(head_dim)) value over earlier positions of the same document.

    Args:
        query: `[batch, sequence, heads, head_dim]`.
        key, value: `[batch, sequence, kv_heads, head_dim]`; kv_heads divides heads. They are not expanded.
        documents: what keeps documents apart; None: one document per row.

    Returns:
        `[batch, sequence, heads, head_dim]`.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    if documents is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    else:
        mask = document_mask(documents.ids)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
    return out.transpose(1, 2)


def document_mask(document_ids: torch.Tensor) -> torch.Tensor:
    """Return bool `[batch, 1, sequence, sequence]`: whether position i may look at position j."""
    length = document_ids.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return (same & causal)[:, None]
