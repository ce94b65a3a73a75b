"""One decoder layer: attention and feed-forward on the engine's tensor-parallel linears.

Hidden states are `[batch, sequence, hidden_size]`, so that attention needs no copies; where REDUCE_SCATTER
divides the sequence over tensor-parallel ranks between the linears, they are `[sequence, batch, hidden_size]`, for
the engine divides the first dimension.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear, TensorParallelRowLinear
from torch import nn
from torch.utils.checkpoint import checkpoint

from nanotron_zagreus.engine.bringup import current
from nanotron_zagreus.model.attention_kernels import kernel
from nanotron_zagreus.model.config import ModelOptions, ZagreusConfig
from nanotron_zagreus.model.documents import Documents
from nanotron_zagreus.model.head import is_sequence_first, tp_mode_of
from nanotron_zagreus.model.regional_compile import RegionalCompile
from nanotron_zagreus.model.rms_norm import RMSNorm
from nanotron_zagreus.model.rope import apply_rotary


@dataclass(frozen=True)
class Positions:
    """What a micro-batch says about positions, the same for every layer; every pipeline rank has its own copy."""

    cos: torch.Tensor
    """fp32 `[sequence, head_dim]`, or `[batch, sequence, head_dim]` when positions differ by row."""
    sin: torch.Tensor
    """As `cos`, with the signs of `rope.rotary_tables`."""
    documents: Documents | None = None
    """None: one document per row."""


class SelfAttention(nn.Module):
    """Grouped-query causal self-attention; this rank holds heads / tp of the query heads."""

    def __init__(self, config: ZagreusConfig, parallel_config: Any, tp_pg: Any, options: ModelOptions) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads // tp_pg.size()
        self.num_kv_heads = config.num_key_value_heads // tp_pg.size()
        mode = tp_mode_of(parallel_config)
        self.sequence_first = is_sequence_first(parallel_config, tp_pg)
        query_size = config.num_attention_heads * self.head_dim
        kv_size = config.num_key_value_heads * self.head_dim
        self.qkv_proj = TensorParallelColumnLinear(
            config.hidden_size,
            query_size + 2 * kv_size,
            pg=tp_pg,
            mode=mode,
            bias=False,
            contiguous_chunks=(query_size, kv_size, kv_size),
            **current().column_linear_options(parallel_config),
        )
        self.o_proj = TensorParallelRowLinear(query_size, config.hidden_size, pg=tp_pg, mode=mode, bias=False)
        self._attend = kernel(options.attention, compiled=options.compile_blocks)

    def forward(self, hidden_states: torch.Tensor, positions: Positions) -> torch.Tensor:
        """Return the attention's output in the shape of ``hidden_states``."""
        qkv = self.qkv_proj(hidden_states)
        if self.sequence_first:
            qkv = qkv.transpose(0, 1)
        # [batch, sequence, (heads + 2 kv_heads) x head_dim]
        sizes = [n * self.head_dim for n in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        query, key, value = (x.unflatten(-1, (-1, self.head_dim)) for x in qkv.split(sizes, dim=-1))
        query, key = (apply_rotary(x, positions.cos, positions.sin) for x in (query, key))
        # Values of their own: as a view they would keep the whole projection alive until the backward pass.
        value = value.contiguous()
        out = self._attend(query, key, value, positions.documents).flatten(2)
        return self.o_proj(out.transpose(0, 1) if self.sequence_first else out)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): down(silu(gate(x)) x up(x))."""

    def __init__(self, config: ZagreusConfig, parallel_config: Any, tp_pg: Any) -> None:
        super().__init__()
        mode = tp_mode_of(parallel_config)
        self.gate_up_proj = TensorParallelColumnLinear(
            config.hidden_size,
            2 * config.intermediate_size,
            pg=tp_pg,
            mode=mode,
            bias=False,
            contiguous_chunks=(config.intermediate_size, config.intermediate_size),
            **current().column_linear_options(parallel_config),
        )
        self.down_proj = TensorParallelRowLinear(
            config.intermediate_size, config.hidden_size, pg=tp_pg, mode=mode, bias=False
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ZagreusConfig, parallel_config: Any, tp_pg: Any, options: ModelOptions) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = SelfAttention(config, parallel_config, tp_pg, options)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config, parallel_config, tp_pg)
        self._recompute = options.recompute_layer
        self._run = compiled_layer() if options.compile_blocks else DecoderLayer._layer

    def forward(self, hidden_states: torch.Tensor, positions: Positions) -> dict[str, torch.Tensor]:
        if self._recompute and torch.is_grad_enabled():
            # No dropout anywhere: the random state needs no keeping.
            out = checkpoint(self._run, self, hidden_states, positions, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self._run(self, hidden_states, positions)
        return {"hidden_states": out}

    def _layer(self, hidden_states: torch.Tensor, positions: Positions) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(self.input_layernorm(hidden_states), positions)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


@functools.cache
def compiled_layer() -> RegionalCompile:
    """Return the one compiled function that all decoder layers of this process run."""
    return RegionalCompile(DecoderLayer._layer)
