"""What Nanotron 0.4's own Llama takes from flash-attn, served by torch where that package is missing.

So that the comparison is one of trainers and not of attention kernels: on a GPU the variable-length kernel is the
FlashAttention inside torch, and the norm and the rotation, Triton kernels in flash-attn, are single kernels made by
torch.compile. On a CPU, where flash-attn never ran, they are torch's plain operations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from nanotron_zagreus.model.attention_kernels import varlen_options


def serve_flash_attn() -> str:
    """Give `nanotron.models.llama` and `nanotron.nn.layer_norm` what they lack; return what serves them.

    Call it after the engine was brought up.
    """
    if importlib.util.find_spec("flash_attn") is not None:
        return "flash-attn as installed"
    from nanotron.models import llama
    from nanotron.nn import layer_norm

    on_gpu = torch.cuda.is_available()
    llama.flash_attn_varlen_func = _varlen_on_gpu if on_gpu else _varlen_on_cpu
    llama.FlashRotaryEmbedding = _Rotary
    layer_norm.layer_norm_fn = _make_norm(torch.compile(_rms_norm, dynamic=False) if on_gpu else _rms_norm)
    if not on_gpu:
        # The rotation of its inference path, which training never calls, insists on a GPU (models/llama.py:77).
        llama.RotaryEmbedding.init_rotary_embeddings = lambda self: None
    return "torch's FlashAttention, norm and rotation compiled" if on_gpu else "torch's plain CPU operations"


def _varlen_on_gpu(
    *, q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int, **_: Any
) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **varlen_options())


def _varlen_on_cpu(*, q: Any, k: Any, v: Any, max_seqlen_q: int, **_: Any) -> Any:
    """Attend in rows of equal length, all that a training batch has; tensors `[batch x sequence, heads, head_dim]`."""
    q, k, v = (x.unflatten(0, (-1, max_seqlen_q)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


class _Rotary(torch.nn.Module):
    """flash-attn's RotaryEmbedding: queries `[batch, sequence, heads, dim]`, kv `[batch, sequence, 2, heads, dim]`."""

    def __init__(self, dim: int, interleaved: bool) -> None:
        super().__init__()
        assert interleaved, "Nanotron 0.4 rotates neighbouring pairs"
        self._dim = dim
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self._rotate = torch.compile(_rotate_pairs, dynamic=False) if torch.cuda.is_available() else _rotate_pairs

    def forward(self, query: torch.Tensor, kv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = self._at(query.shape[1], query.device)
        keys = self._rotate(kv[:, :, 0], cos, sin)
        return self._rotate(query, cos, sin), torch.stack((keys, kv[:, :, 1]), dim=2)

    def _at(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tables is None or self._tables[0].shape[0] < length:
            frequencies = 10000.0 ** (-torch.arange(0, self._dim, 2, device=device, dtype=torch.float32) / self._dim)
            angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
            self._tables = angles.cos(), angles.sin()
        return self._tables[0][:length], self._tables[1][:length]


def _rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (2i, 2i + 1) of `[batch, sequence, heads, dim]`."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def _make_norm(norm: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return flash-attn's `layer_norm_fn` as Nanotron's RMSNorm calls it."""

    def layer_norm_fn(x: torch.Tensor, weight: torch.Tensor, bias: None, *, eps: float, **_: Any) -> torch.Tensor:
        return norm(x, weight, eps)

    return layer_norm_fn
