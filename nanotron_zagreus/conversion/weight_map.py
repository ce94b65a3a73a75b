"""Which rows of which Nanotron tensor each Hugging Face tensor is, and back.

Nanotron fuses q, k, v into `qkv_proj` and gate, up into `gate_up_proj` (gate first); Hugging Face keeps
them apart. Where a model stores rotary pairs interleaved, q and k are reordered within each head.
Everything else is the same tensor under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.architecture import Architecture

if TYPE_CHECKING:
    import torch

EMBEDDING = "model.token_position_embeddings.pp_block.token_embedding.weight"
FINAL_NORM = "model.final_layer_norm.pp_block.weight"
LM_HEAD = "model.lm_head.pp_block.weight"


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a Nanotron tensor, as one Hugging Face tensor holds them."""

    tensor: str
    start: int
    stop: int
    num_columns: int | None
    """Columns of the tensor; None for a vector."""
    num_rotary_heads: int = 0
    """Heads whose rows are reordered when the model interleaves its rotary pairs; 0: none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the Hugging Face tensor."""
        height = self.stop - self.start
        return (height,) if self.num_columns is None else (height, self.num_columns)


def hf_rows(arch: Architecture) -> dict[str, Rows]:
    """Return, for each Hugging Face tensor name in file order, the Nanotron rows it is."""
    hidden, vocab = arch.hidden_size, arch.vocab_size
    rows = {"model.embed_tokens.weight": Rows(EMBEDDING, 0, vocab, hidden)}
    for layer in range(arch.num_hidden_layers):
        rows |= _layer_rows(arch, layer)
    rows["model.norm.weight"] = Rows(FINAL_NORM, 0, hidden, None)
    if not arch.tie_word_embeddings:
        rows["lm_head.weight"] = Rows(LM_HEAD, 0, vocab, hidden)
    return rows


def nanotron_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of each whole Nanotron tensor of the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for rows in hf_rows(arch).values():
        height = max(rows.stop, shapes.get(rows.tensor, (0,))[0])
        shapes[rows.tensor] = (height,) if rows.num_columns is None else (height, rows.num_columns)
    return shapes


def read_hf_tensor(rows: Rows, arch: Architecture, read: Callable[[str, int, int], torch.Tensor]) -> torch.Tensor:
    """Return one Hugging Face tensor, in the stored dtype.

    Args:
        rows: where it lies.
        arch: says whether rotary pairs are interleaved.
        read: gives rows of a Nanotron tensor: (name, start, stop) -> tensor.
    """
    data = read(rows.tensor, rows.start, rows.stop)
    if arch.rope_interleaved and rows.num_rotary_heads:
        return _split_halves(data, rows.num_rotary_heads)
    return data


def nanotron_tensors(
    arch: Architecture, read: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, tuple[int, ...], torch.Tensor]]:
    """Yield each Nanotron tensor as (name, heights of its fused parts, tensor), one at a time.

    Args:
        arch: the model, with the layout of rotary pairs to produce.
        read: gives a Hugging Face tensor by name.
    """
    import torch

    parts: dict[str, list[tuple[str, Rows]]] = {}
    for name, rows in hf_rows(arch).items():
        parts.setdefault(rows.tensor, []).append((name, rows))
    for tensor, members in parts.items():
        pieces = []
        for name, rows in sorted(members, key=lambda member: member[1].start):
            piece = read(name)
            if arch.rope_interleaved and rows.num_rotary_heads:
                piece = interleave(piece, rows.num_rotary_heads)
            pieces.append(piece)
        heights = tuple(rows.stop - rows.start for _, rows in members)
        yield tensor, heights, pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def interleave(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return rows ``[heads * head_dim, hidden]`` with each head's pairs (i, i + head_dim/2) moved to (2i, 2i+1)."""
    return weight.view(num_heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def _layer_rows(arch: Architecture, layer: int) -> dict[str, Rows]:
    """Return the rows of one decoder layer."""
    hidden, intermediate = arch.hidden_size, arch.intermediate_size
    heads, kv_heads = arch.num_attention_heads, arch.num_key_value_heads
    query, key = heads * arch.head_dim, kv_heads * arch.head_dim
    ours, theirs = f"model.decoder.{layer}.pp_block.", f"model.layers.{layer}."
    qkv, gate_up = f"{ours}attn.qkv_proj.weight", f"{ours}mlp.gate_up_proj.weight"
    return {
        f"{theirs}input_layernorm.weight": Rows(f"{ours}input_layernorm.weight", 0, hidden, None),
        f"{theirs}self_attn.q_proj.weight": Rows(qkv, 0, query, hidden, heads),
        f"{theirs}self_attn.k_proj.weight": Rows(qkv, query, query + key, hidden, kv_heads),
        f"{theirs}self_attn.v_proj.weight": Rows(qkv, query + key, query + 2 * key, hidden),
        f"{theirs}self_attn.o_proj.weight": Rows(f"{ours}attn.o_proj.weight", 0, hidden, query),
        f"{theirs}post_attention_layernorm.weight": Rows(f"{ours}post_attention_layernorm.weight", 0, hidden, None),
        f"{theirs}mlp.gate_proj.weight": Rows(gate_up, 0, intermediate, hidden),
        f"{theirs}mlp.up_proj.weight": Rows(gate_up, intermediate, 2 * intermediate, hidden),
        f"{theirs}mlp.down_proj.weight": Rows(f"{ours}mlp.down_proj.weight", 0, hidden, intermediate),
    }


def _split_halves(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return the inverse of :func:`interleave`."""
    return weight.view(num_heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)
