"""Where Nanotron puts a Llama's tensors, and the two JSON files beside them, for both engine generations.

Sources: nanotron 0.4 and upstream main (2411b022): models/base.py (pipeline ranks), models/llama.py
(splits, costs), config/models_config.py (LlamaConfig), serialize/metadata.py (checkpoint_metadata.json).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.model_shards_writing import Split
from nanotron_zagreus.config.pipeline import block_ranks
from nanotron_zagreus.conversion.weight_map import EMBEDDING, FINAL_NORM, LM_HEAD

CheckpointFormat = Literal["0.4", "main"]

CHECKPOINT_VERSIONS: dict[CheckpointFormat, str] = {"0.4": "1.2", "main": "1.5"}
"""Version that each engine writes into its files (constants.py)."""

_ROW_PARALLEL = ("o_proj", "down_proj")


def tensor_split(name: str, heights: tuple[int, ...]) -> Split | None:
    """Return how tensor parallelism divides a tensor; None when every rank holds it whole.

    Args:
        name: dotted parameter name.
        heights: rows of its fused parts; one entry when nothing is fused.
    """
    module = name.split(".")[-2]
    if name in (EMBEDDING, LM_HEAD):
        return Split(0)
    if module in _ROW_PARALLEL:
        return Split(1)
    return Split(0, heights) if len(heights) > 1 else None


def pipeline_ranks(arch: Architecture, pp: int) -> dict[str, int]:
    """Return the pipeline rank of each block, keyed by the tensor-name prefix that names it."""
    layer_cost = (
        4 * arch.num_attention_heads * arch.head_dim * arch.hidden_size + 3 * arch.intermediate_size * arch.hidden_size
    )
    layers = [f"model.decoder.{layer}." for layer in range(arch.num_hidden_layers)]
    ranks = block_ranks(arch.num_hidden_layers, layer_cost, arch.vocab_size * arch.hidden_size, pp)
    return dict(zip((EMBEDDING, *layers, FINAL_NORM, LM_HEAD), ranks, strict=True))


def block_prefix(name: str) -> str:
    """Return the key of :func:`pipeline_ranks` under which a tensor's block stands."""
    if name.startswith("model.decoder."):
        return ".".join(name.split(".")[:3]) + "."
    return name


def nanotron_model_config(arch: Architecture, engine: CheckpointFormat) -> dict[str, Any]:
    """Return `model_config.json` as the engine writes it; 0.4's has the rotary keys this project adds."""
    config = dataclasses.asdict(arch) | {
        "eos_token_id": arch.first_eos_token_id,
        "hidden_act": "silu",
        "is_llama_config": True,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "use_cache": True,
    }
    if engine == "main":
        config |= {
            "attention_bias": False,
            "_attn_implementation": "flash_attention_2",
            "z_loss_enabled": False,
            "z_loss_coefficient": 0.0001,
        }
    return config


def checkpoint_metadata(tp: int, engine: CheckpointFormat) -> dict[str, Any]:
    """Return `checkpoint_metadata.json` of a model that has not been trained yet."""
    metas: dict[str, Any] = {"consumed_train_samples": 0, "last_train_step": 0}
    data: dict[str, Any] = {"dp": 1, "metas": metas, "tp": tp, "version": CHECKPOINT_VERSIONS[engine]}
    if engine == "main":
        metas |= {"consumed_tokens_total": 0, "data_stages": [], "last_stage_idx": None}
        data |= {"cp": 1, "custom_metas": None}
    return data
