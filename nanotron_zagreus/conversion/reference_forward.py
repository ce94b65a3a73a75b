"""A plain forward pass over a checkpoint's own tensors: what the trained model computes.

It judges the converter, so it shares nothing with the weight map: it takes whole Nanotron tensors by
name, splits the fused ones where the model's forward pass does, and rotates q and k as the training
model rotates them, interleaved pairs as complex numbers. One layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.architecture import Architecture

if TYPE_CHECKING:
    import torch


def reference_logits(
    arch: Architecture,
    weight: Callable[[str], torch.Tensor],
    token_ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the logits `[positions, vocab_size]` of one sequence.

    Args:
        arch: the stored model.
        weight: gives a whole Nanotron tensor by its parameter name, in any dtype.
        token_ids: `[positions]`, int64.
        dtype: what is computed in, float32 (the default) or float64; rotary angles are float32 either way, as the
            trained model's are.
    """
    import torch

    dtype = dtype or torch.float32

    def widened(name: str) -> torch.Tensor:
        return weight(f"model.{name}.weight").to(dtype)

    with torch.no_grad():
        embedding = weight("model.token_position_embeddings.pp_block.token_embedding.weight")
        hidden = embedding[token_ids].to(dtype)
        for layer in range(arch.num_hidden_layers):
            block = f"decoder.{layer}.pp_block"
            normed = _rms_norm(hidden, widened(f"{block}.input_layernorm"), arch.rms_norm_eps)
            heads = _attention(arch, normed @ widened(f"{block}.attn.qkv_proj").T)
            hidden = hidden + heads @ widened(f"{block}.attn.o_proj").T
            normed = _rms_norm(hidden, widened(f"{block}.post_attention_layernorm"), arch.rms_norm_eps)
            gate, up = (normed @ widened(f"{block}.mlp.gate_up_proj").T).chunk(2, dim=-1)
            hidden = hidden + (gate * torch.sigmoid(gate) * up) @ widened(f"{block}.mlp.down_proj").T
        hidden = _rms_norm(hidden, widened("final_layer_norm.pp_block"), arch.rms_norm_eps)
        head = embedding if arch.tie_word_embeddings else weight("model.lm_head.pp_block.weight")
        # The head is the largest tensor; taken in slices, no second whole copy of it is made.
        return torch.cat([hidden @ rows.to(dtype).T for rows in head.split(16384)], dim=-1)


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return ``hidden`` `[positions, hidden_size]` divided by its root mean square, times ``weight``."""
    return hidden * (hidden.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _attention(arch: Architecture, qkv: torch.Tensor) -> torch.Tensor:
    """Return the concatenated heads `[positions, hidden_size]` from the fused projection's output."""
    import torch

    positions, head_dim = qkv.shape[0], arch.head_dim
    kv_width = arch.num_key_value_heads * head_dim
    query, key, value = qkv.split([arch.hidden_size, kv_width, kv_width], dim=-1)
    query = _rotate(arch, query.unflatten(-1, (arch.num_attention_heads, head_dim)))
    key = _rotate(arch, key.unflatten(-1, (arch.num_key_value_heads, head_dim)))
    value = value.unflatten(-1, (arch.num_key_value_heads, head_dim))
    # Query head h attends with key head h // repeats: consecutive query heads share one key head.
    query = query.unflatten(1, (arch.num_key_value_heads, -1))
    scores = torch.einsum("qgrd,kgd->grqk", query, key) * head_dim**-0.5
    future = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("grqk,kgd->qgrd", weights, value).flatten(1)


def _rotate(arch: Architecture, states: torch.Tensor) -> torch.Tensor:
    """Return ``states`` `[positions, heads, head_dim]` turned by position x theta^(-2i/head_dim) in each pair i.

    Source: Su et al. 2021, arXiv:2104.09864, equation 15. Frequencies are float32, as the trained model's.
    """
    import torch

    half = arch.head_dim // 2
    frequencies = 1.0 / arch.rope_theta ** (torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim)
    angles = torch.outer(torch.arange(states.shape[0], dtype=torch.float32), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, :].to(states.dtype.to_complex())
    if arch.rope_interleaved:
        pairs = torch.view_as_complex(states.unflatten(-1, (half, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)
    turned = torch.complex(states[..., :half].contiguous(), states[..., half:].contiguous()) * turn
    return torch.cat((turned.real, turned.imag), dim=-1)
