"""The model sections: the architecture in Hugging Face's words, and how its parameters start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanotron_zagreus.config.rules import at_least, at_most, epsilon
from nanotron_zagreus.errors import InputError

_LARGEST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "vocab_size": 2**24,
}
"""Far beyond any published model (1,000 layers: DeepNet, arXiv:2203.00555); a slip of the pen should not be planned."""


@dataclass(frozen=True, kw_only=True)
class RandomInitSection:
    """Start from random parameters."""

    std: float
    """Standard deviation of the normal distribution; row-parallel outputs get std / sqrt(2 x num_hidden_layers)."""

    def __post_init__(self) -> None:
        if not 0 < self.std < 10:
            raise InputError(f"std: got {self.std}, expected a number between 0 and 10")


@dataclass(frozen=True, kw_only=True)
class ExistingCheckpointSection:
    """Start from another checkpoint's parameters, with a fresh optimizer and step 0."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class ModelConfigSection:
    """The architecture, in Hugging Face's words; defaults are upstream Nanotron's for Llama."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None
    """Heads of keys and values (grouped-query attention); None: as many as num_attention_heads."""
    max_position_embeddings: int = 2048
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = None
    hidden_act: Literal["silu"] = "silu"
    initializer_range: float = 0.02
    """Not used in training (`init_method.std` is); copied into the converted config."""
    is_llama_config: bool = True
    pretraining_tp: int = 1
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_interleaved: bool = False
    """Only false is trained: Hugging Face's half-split rotation."""
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
            at_least(name, getattr(self, name), 1)
        for name, most in _LARGEST.items():
            at_most(name, getattr(self, name), most)
        heads, kv_heads = self.num_attention_heads, self.kv_heads
        at_least("num_key_value_heads", kv_heads, 1)
        at_least("max_position_embeddings", self.max_position_embeddings, 1)
        epsilon("rms_norm_eps", self.rms_norm_eps)
        if not self.rope_theta >= 1:
            raise InputError(f"rope_theta: got {self.rope_theta}, expected a number >= 1, such as 10000")
        if self.hidden_size % heads:
            raise InputError(
                f"num_attention_heads: {heads} does not divide hidden_size {self.hidden_size}; choose a divisor"
            )
        if (self.hidden_size // heads) % 2:
            raise InputError(
                f"num_attention_heads: head_dim = {self.hidden_size} / {heads} = {self.hidden_size // heads} "
                "is odd; rotary embeddings rotate pairs, choose an even head_dim"
            )
        if heads % kv_heads:
            raise InputError(f"num_key_value_heads: {kv_heads} does not divide num_attention_heads {heads}")
        if not self.is_llama_config:
            raise InputError("is_llama_config: got false, only the Llama architecture is trained; set it to true")
        if self.rope_interleaved:
            raise InputError("rope_interleaved: got true, only false is trained; conversion reads both")
        if self.rope_scaling is not None:
            raise InputError(f"rope_scaling: got {self.rope_scaling}, only null is supported; set rope_theta instead")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def query_parameters(self) -> int:
        """Parameters of one layer's query projection; the attention's output projection has as many."""
        return self.hidden_size * self.num_attention_heads * self.head_dim

    @property
    def key_value_parameters(self) -> int:
        """Parameters of one layer's key and value projections together."""
        return 2 * self.hidden_size * self.kv_heads * self.head_dim

    @property
    def mlp_parameters(self) -> int:
        """Parameters of each of one layer's three matrices in the FFN: gate, up and down."""
        return self.hidden_size * self.intermediate_size

    @property
    def layer_cost(self) -> int:
        """Multiply-adds per token in the matrices of one decoder layer, which are its parameters there."""
        return 2 * self.query_parameters + self.key_value_parameters + 3 * self.mlp_parameters

    @property
    def head_cost(self) -> int:
        """Multiply-adds per token in the output head."""
        return self.vocab_size * self.hidden_size


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The model and how it starts."""

    model_config: ModelConfigSection
    init_method: RandomInitSection | ExistingCheckpointSection
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    make_vocab_size_divisible_by: int = 1
    ddp_bucket_cap_mb: int = 25

    def __post_init__(self) -> None:
        at_least("make_vocab_size_divisible_by", self.make_vocab_size_divisible_by, 1)
        at_least("ddp_bucket_cap_mb", self.ddp_bucket_cap_mb, 1)
