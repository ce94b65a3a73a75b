"""Tiny checkpoints in Nanotron's format, and a tiny tokenizer, for the conversion tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.checkpoints.model_shards_writing import Placement, Split, write_tensor_shards

TINY = Architecture(
    hidden_size=40, intermediate_size=80, num_hidden_layers=3, num_attention_heads=10, num_key_value_heads=5,
    vocab_size=131, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0, rope_interleaved=False,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=None, initializer_range=0.02,
)  # fmt: skip
NUM_TOKENS = 131


def random_tensors(
    arch: Architecture, dtype: torch.dtype, seed: int = 0
) -> dict[str, tuple[torch.Tensor, Split | None]]:
    """Return whole Nanotron tensors with weights large enough, and norms unlike one, for every mistake to show."""
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn = arch.hidden_size, arch.intermediate_size
    kv = arch.num_key_value_heads * arch.head_dim

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 1.5 * shape[-1] ** -0.5).to(dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.3 * torch.randn(hidden, generator=generator)).to(dtype)

    tensors: dict[str, tuple[torch.Tensor, Split | None]] = {
        "model.token_position_embeddings.pp_block.token_embedding.weight": (normal(arch.vocab_size, hidden), Split(0)),
        "model.final_layer_norm.pp_block.weight": (norm(), None),
    }
    for layer in range(arch.num_hidden_layers):
        block = f"model.decoder.{layer}.pp_block"
        tensors |= {
            f"{block}.input_layernorm.weight": (norm(), None),
            f"{block}.post_attention_layernorm.weight": (norm(), None),
            f"{block}.attn.qkv_proj.weight": (normal(hidden + 2 * kv, hidden), Split(0, (hidden, kv, kv))),
            f"{block}.attn.o_proj.weight": (normal(hidden, hidden), Split(1)),
            f"{block}.mlp.gate_up_proj.weight": (normal(2 * ffn, hidden), Split(0, (ffn, ffn))),
            f"{block}.mlp.down_proj.weight": (normal(hidden, ffn), Split(1)),
        }
    if not arch.tie_word_embeddings:
        tensors["model.lm_head.pp_block.weight"] = (normal(arch.vocab_size, hidden), Split(0))
    return tensors


def write_checkpoint(
    folder: Path,
    arch: Architecture = TINY,
    *,
    tp: int = 1,
    pp: int = 1,
    dtype: torch.dtype = torch.float32,
    version: str = "1.2",
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Write a checkpoint of random weights and return its whole tensors; the vocabulary is padded for tp."""
    padded = replace(arch, vocab_size=-(-arch.vocab_size // tp) * tp)
    tensors = random_tensors(padded, dtype, seed)
    for name, (tensor, split) in tensors.items():
        layer = int(name.split(".")[2]) if ".decoder." in name else 0
        rank = pp - 1 if "lm_head" in name else layer * pp // arch.num_hidden_layers
        write_tensor_shards(folder, name, tensor, split, Placement(tp, pp, rank), version)
    (folder / "model_config.json").write_text(json.dumps(nanotron_config(padded)))
    metadata = {"dp": 2, "metas": {"consumed_train_samples": 640, "last_train_step": 20}, "tp": tp, "version": version}
    (folder / "checkpoint_metadata.json").write_text(json.dumps(metadata))
    return {name: tensor for name, (tensor, _) in tensors.items()}


def nanotron_config(arch: Architecture) -> dict[str, Any]:
    """Return a model_config.json as the training model writes it."""
    extra = {
        "hidden_act": "silu",
        "is_llama_config": True,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "use_cache": True,
    }
    return {name: getattr(arch, name) for name in Architecture.__dataclass_fields__} | extra


def write_tokenizer_folder(folder: Path, num_tokens: int = NUM_TOKENS) -> Path:
    """Write a byte-level BPE tokenizer of ``num_tokens`` tokens: <s> is 0, </s> is 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: num_tokens - 4]
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *letters])}
    # Two merges: transformers 4.57 unwraps a GGUF file's list of one.
    merges = [(letters[0], letters[1]), (letters[2], letters[3])]
    vocabulary |= {"".join(merge): len(vocabulary) + index for index, merge in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>", "backend": "tokenizers"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
