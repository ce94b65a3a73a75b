"""The model a checkpoint or a Hugging Face folder holds, as far as conversion needs to know it.

Reads `model_config.json` of both Nanotron generations and of this project, and `config.json` of a
Llama model; refuses everything that a plain Llama cannot express instead of dropping it.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.errors import InputError, MissingInputError

_MAX_JSON_BYTES = 4 * 1024 * 1024

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0, None),
    "rope_scaling": (None,),
    "pretraining_tp": (1, None),
    "moe_config": (None,),
    "no_rope_layer": (None,),
    "rope_seq_len_interpolation_factor": (None,),
    "sliding_window_size": (None,),
    "flex_attention_mask": (None,),
}
"""Keys that change what the model computes, and the values a plain Llama has."""

_NANOTRON_IGNORED = {
    "is_llama_config", "is_qwen2_config", "use_cache", "_attn_implementation", "z_loss_enabled", "z_loss_coefficient",
    "_fused_rotary_emb", "_fused_rms_norm", "_use_qkv_packed", "_use_doc_masking", "log_attn_probs",
    "ring_attn_heads_k_stride",
}  # fmt: skip
"""Keys of nanotron 0.4 (config/models_config.py) and upstream main that do not change what a dense model computes."""

_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A dense Llama: sizes in Hugging Face's words, and how its files are laid out."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    """Rows of the embedding as stored, padding for tensor parallelism included."""
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_interleaved: bool
    """Whether rotary pairs are (2i, 2i+1) in the stored q and k, not (i, i + head_dim/2)."""
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    pad_token_id: int | None
    initializer_range: float

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
                raise InputError(f"{name}: got {value!r}, expected a positive whole number")
        for name in ("rms_norm_eps", "rope_theta", "initializer_range"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise InputError(f"{name}: got {value!r}, expected a positive number")
        self._check_special_tokens()
        for name in ("rope_interleaved", "tie_word_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected true or false")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise InputError(
                f"num_attention_heads: head_dim = hidden_size / num_attention_heads = {self.hidden_size} / "
                f"{self.num_attention_heads} must be a whole even number"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_key_value_heads: {self.num_key_value_heads} does not divide num_attention_heads "
                f"{self.num_attention_heads}"
            )

    def _check_special_tokens(self) -> None:
        """Refuse ids that are none, and a padding token without a row, with which transformers makes no model."""
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            ids = value if name == "eos_token_id" and isinstance(value, tuple) and value else (value,)
            if value is not None and not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids):
                raise InputError(f"{name}: got {value!r}, expected a token's id, or null for none")
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise InputError(
                f"pad_token_id: got {self.pad_token_id}, expected less than vocab_size {self.vocab_size}, or null"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def first_eos_token_id(self) -> int | None:
        """The one end of text that training knows."""
        return self.eos_token_id[0] if isinstance(self.eos_token_id, tuple) else self.eos_token_id

    @property
    def num_parameters(self) -> int:
        """Parameters, the tied embedding counted once, padded rows included."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + self.hidden_size


def read_nanotron_architecture(path: Path) -> tuple[Architecture, list[str]]:
    """Return the architecture that a checkpoint's `model_config.json` holds, and what deserves a remark.

    A file without `rope_interleaved` is of nanotron 0.4's own Llama, which always interleaves
    (models/llama.py, FlashRotaryEmbedding(interleaved=True)) with theta 10000.
    """
    data, notices = read_json(path), []
    if data.get("is_starcoder2_config"):
        raise InputError(f"{path}: is_starcoder2_config: a Starcoder2 model; only Llama models are converted")
    if "rope_interleaved" not in data:
        notices.append("model_config.json has no rope_interleaved: read as true, as nanotron 0.4's own Llama trains")
    if "rope_theta" not in data:
        notices.append("model_config.json has no rope_theta: read as 10000, as nanotron 0.4's own Llama trains")
    values = {"rope_interleaved": True, "rope_theta": 10000.0, "initializer_range": 0.02} | data
    return _build(values, path, _NANOTRON_IGNORED), notices


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file of at most 4 MiB.

    Raises:
        InputError: no file, not JSON, or no mapping.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected a JSON file of at most {_MAX_JSON_BYTES}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: got {type(data).__name__}, expected a mapping of keys")
    return data


def check_plain_llama(data: dict[str, Any], path: Path) -> None:
    """Refuse keys that change what the model computes when they have another value than a plain Llama's."""
    for key, value in data.items():
        if key in _NEUTRAL and value not in _NEUTRAL[key]:
            raise InputError(f"{path}: {key}: got {value!r}; a plain Llama has {_NEUTRAL[key][0]!r} and no other value")


def _build(data: dict[str, Any], path: Path, ignored: set[str]) -> Architecture:
    """Return the architecture in ``data`` after refusing what a plain Llama cannot express."""
    check_plain_llama(data, path)
    fields = set(Architecture.__dataclass_fields__)
    for key in data:
        if key not in fields and key not in _NEUTRAL and key not in ignored:
            near = difflib.get_close_matches(key, sorted(fields | set(_NEUTRAL)), n=1)
            advice = f"did you mean {near[0]!r}?" if near else "it may change what the model computes, remove it if not"
            raise InputError(f"{path}: {key}: unknown key; {advice}")
    values = {name: data.get(name) for name in fields}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    missing = sorted(name for name in fields if name not in data and name != "num_key_value_heads")
    if missing:
        raise InputError(f"{path}: {missing[0]}: missing, and it has no default; take the file from a whole checkpoint")
    if isinstance(values["eos_token_id"], list):
        values["eos_token_id"] = tuple(values["eos_token_id"])
    try:
        return Architecture(**values)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
