"""The two JSON files that tell transformers what the model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.dtypes import TORCH_NAMES


def hf_config(arch: Architecture, dtype: str) -> dict[str, Any]:
    """Return `config.json`, with the keys of both transformers generations.

    Version 5 reads `rope_parameters` and `dtype`; version 4 reads `rope_theta`, `rope_scaling` and
    `torch_dtype`, and takes theta 10000 in silence when they are absent. Both get the same values.

    Args:
        arch: the model as written; its `rope_interleaved` does not matter here, files are half-split.
        dtype: safetensors name of the weights' dtype.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": arch.bos_token_id,
        "dtype": TORCH_NAMES[dtype],
        "eos_token_id": arch.eos_token_id,
        "head_dim": arch.head_dim,
        "hidden_act": "silu",
        "hidden_size": arch.hidden_size,
        "initializer_range": arch.initializer_range,
        "intermediate_size": arch.intermediate_size,
        "max_position_embeddings": arch.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": arch.num_attention_heads,
        "num_hidden_layers": arch.num_hidden_layers,
        "num_key_value_heads": arch.num_key_value_heads,
        "pad_token_id": arch.pad_token_id,
        "pretraining_tp": 1,
        "rms_norm_eps": arch.rms_norm_eps,
        "rope_parameters": {"rope_theta": arch.rope_theta, "rope_type": "default"},
        "rope_scaling": None,
        "rope_theta": arch.rope_theta,
        "tie_word_embeddings": arch.tie_word_embeddings,
        "torch_dtype": TORCH_NAMES[dtype],
        "use_cache": True,
        "vocab_size": arch.vocab_size,
    }


def generation_config(arch: Architecture) -> dict[str, Any]:
    """Return `generation_config.json`: the special tokens; how to sample is left to the user."""
    ids = {
        "bos_token_id": arch.bos_token_id,
        "eos_token_id": arch.eos_token_id,
        "pad_token_id": arch.pad_token_id,
    }
    return {name: value for name, value in ids.items() if value is not None}


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as indented JSON, keys in their given order."""
    path.write_text(json_text(data), encoding="utf-8")


def json_text(data: dict[str, Any]) -> str:
    """Return ``data`` as indented JSON, keys in their given order."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
