"""Each classic mistake of a converter is caught, by every gate that can see it; a correct folder passes all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanotron_zagreus.conversion.logit_gate import verify_logits
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.conversion.verify import compare_weights, load_model, verify_config, verify_folder
from nanotron_zagreus.errors import VerificationError
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder

Tensors = dict[str, torch.Tensor]


def swap(tensors: Tensors, one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]


def swap_key_and_value(tensors: Tensors) -> None:
    attention = "model.layers.1.self_attn"
    swap(tensors, f"{attention}.k_proj.weight", f"{attention}.v_proj.weight")


def interleave_rotary_pairs(tensors: Tensors) -> None:
    for name in list(tensors):
        if "q_proj" in name or "k_proj" in name:
            heads = tensors[name].view(-1, 2, TINY.head_dim // 2, TINY.hidden_size)
            tensors[name] = heads.transpose(1, 2).reshape(tensors[name].shape).contiguous()


def swap_gate_and_up(tensors: Tensors) -> None:
    swap(tensors, "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")


def swap_norms(tensors: Tensors) -> None:
    layer = "model.layers.2"
    swap(tensors, f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight")


def change_theta(config: dict[str, object]) -> None:
    config |= {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def change_epsilon(config: dict[str, object]) -> None:
    config["rms_norm_eps"] = 1e-6


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, Path]:
    write_checkpoint(tmp_path / "20", replace(TINY, rope_interleaved=False), tp=5, dtype=torch.bfloat16)
    tokenizer = write_tokenizer_folder(tmp_path / "tokenizer")
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, verify=False)
    return tmp_path / "20", tmp_path / "hf"


def gates(checkpoint: Path, folder: Path) -> dict[str, Callable[[], object]]:
    source = open_checkpoint(checkpoint)
    arch = replace(source.arch, vocab_size=TINY.vocab_size)

    def weight(name: str) -> torch.Tensor:
        return source.read(name, 0, arch.vocab_size if "embedding" in name else None)

    return {
        "weights": lambda: compare_weights(folder, arch, weight),
        "config": lambda: verify_config(load_model(folder), arch),
        "logits": lambda: verify_logits(load_model(folder), arch, weight),
        "all": lambda: verify_folder(folder, arch, weight),
    }


def test_a_correct_folder_passes_every_gate(converted: tuple[Path, Path]) -> None:
    for gate in gates(*converted).values():
        gate()


@pytest.mark.parametrize("mistake", [swap_key_and_value, interleave_rotary_pairs, swap_gate_and_up, swap_norms])
def test_a_wrong_weight_is_caught_by_the_bits_and_by_the_logits(
    converted: tuple[Path, Path], mistake: Callable[[Tensors], None]
) -> None:
    path = converted[1] / "model.safetensors"
    tensors = load_file(path)
    mistake(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    for name in ("weights", "logits", "all"):
        with pytest.raises(VerificationError):
            gates(*converted)[name]()


@pytest.mark.parametrize("mistake", [change_theta, change_epsilon])
def test_a_wrong_constant_is_caught_by_the_config_and_by_the_logits(
    converted: tuple[Path, Path], mistake: Callable[[dict[str, object]], None]
) -> None:
    path = converted[1] / "config.json"
    config = json.loads(path.read_text())
    mistake(config)
    path.write_text(json.dumps(config))
    gates(*converted)["weights"]()
    for name in ("config", "logits", "all"):
        with pytest.raises(VerificationError):
            gates(*converted)[name]()


def test_a_context_of_another_length_is_caught_although_no_logit_shows_it(converted: tuple[Path, Path]) -> None:
    path = converted[1] / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "max_position_embeddings": 2 * config["max_position_embeddings"]}))
    gates(*converted)["logits"]()
    for name in ("config", "all"):
        with pytest.raises(VerificationError, match="max_position_embeddings"):
            gates(*converted)[name]()


def test_one_flipped_bit_is_caught(converted: tuple[Path, Path]) -> None:
    path = converted[1] / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1001] ^= 1
    path.write_bytes(raw)
    with pytest.raises(VerificationError, match="1 of"):
        gates(*converted)["weights"]()


def test_a_surplus_tensor_is_caught(converted: tuple[Path, Path]) -> None:
    path = converted[1] / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(131, 40)}, path, metadata={"format": "pt"})
    with pytest.raises(VerificationError, match="lm_head"):
        gates(*converted)["all"]()


def test_a_missing_tensor_is_named(converted: tuple[Path, Path]) -> None:
    path = converted[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    for name in ("weights", "all"):
        with pytest.raises(VerificationError, match=r"1 tensors are missing, among them model\.norm\.weight"):
            gates(*converted)[name]()
