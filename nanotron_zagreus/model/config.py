"""The model's configuration as the engine sees it, and the choices that are not part of a checkpoint.

Like every module that imports nanotron, it can only be imported after `engine.bringup.bring_up`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanotron.config import LlamaConfig


@dataclass
class ZagreusConfig(LlamaConfig):
    """Upstream's LlamaConfig with the rotary keys that 0.4's lacks; written to `model_config.json`.

    `vocab_size` is the padded one: the engine rounds it up to a multiple of tp before the model is built.
    """

    rope_theta: float = 10000.0
    rope_interleaved: bool = False

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How the model computes, as opposed to what it is."""

    vocab_size: int
    """Rows of the vocabulary that are real; the padded rest takes no part in the softmax and starts at zero."""
    recompute_layer: bool = False
    """Recompute a decoder layer's activations in the backward pass instead of keeping them."""
    attention: str = "sdpa"
    """Attention kernel, a name of `attention_kernels.KERNELS`."""
    cross_entropy: str = "chunked"
    """`chunked`: projection and loss a few rows at a time; `plain`: from all logits at once, the reference."""
    compile_blocks: bool = False
    """Run the decoder layers through torch.compile."""
