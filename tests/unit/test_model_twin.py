"""The model against transformers' Llama with the same weights: fp32 logits and gradients on CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanotron_zagreus.config import load_config
from nanotron_zagreus.config.parsing import to_plain
from tests.unit.engine_model import build_model, fill_randomly

SEQUENCE = 96
# fp32 on CPU: SDPA and eager attention alone differ by up to 1.4e-5 on logits of this size.
TOLERANCE = 1e-4
CONFIG = {
    "hidden_size": 60,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "vocab_size": 200,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def build_ours(*, tied: bool, seed: int = 3) -> Any:
    """Return the engine's model in this process, randomly initialised with norms other than 1."""
    model = build_model({**CONFIG, "tie_word_embeddings": tied})
    fill_randomly(model, std=0.2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, param in model.named_parameters():
        if "norm" in name:
            with torch.no_grad():
                param.copy_(1 + 0.3 * torch.randn(param.shape, generator=generator))
    return model


def build_twin(ours: Any, *, tied: bool) -> Any:
    """Return transformers' Llama holding the weights of ``ours``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    twin = LlamaForCausalLM(LlamaConfig(**CONFIG, tie_word_embeddings=tied, attention_bias=False)).float()
    weights = {name: param.detach().clone() for name, param in ours.named_parameters()}
    head_dim = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
    query, key = CONFIG["num_attention_heads"] * head_dim, CONFIG["num_key_value_heads"] * head_dim
    state = {"model.embed_tokens.weight": weights["model.token_position_embeddings.pp_block.token_embedding.weight"]}
    state["model.norm.weight"] = weights["model.final_layer_norm.pp_block.weight"]
    head = "model.embed_tokens.weight" if tied else None
    state["lm_head.weight"] = state[head] if head else weights["model.lm_head.pp_block.weight"]
    for layer in range(CONFIG["num_hidden_layers"]):
        source, target = f"model.decoder.{layer}.pp_block", f"model.layers.{layer}"
        q, k, v = weights[f"{source}.attn.qkv_proj.weight"].split([query, key, key])
        gate, up = weights[f"{source}.mlp.gate_up_proj.weight"].chunk(2)
        state |= {f"{target}.self_attn.{n}_proj.weight": w for n, w in (("q", q), ("k", k), ("v", v))}
        state |= {f"{target}.mlp.gate_proj.weight": gate, f"{target}.mlp.up_proj.weight": up}
        state[f"{target}.self_attn.o_proj.weight"] = weights[f"{source}.attn.o_proj.weight"]
        state[f"{target}.mlp.down_proj.weight"] = weights[f"{source}.mlp.down_proj.weight"]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{target}.{norm}.weight"] = weights[f"{source}.{norm}.weight"]
    twin.load_state_dict(state, strict=True)
    return twin.eval()


def ours_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return `[batch, sequence, vocab]` from the engine's model."""
    hidden = model.model.hidden_states(tokens, model.model.positions(tokens, None, None))
    return model.model.lm_head.pp_block.logits(hidden)


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CONFIG["vocab_size"], (2, SEQUENCE + 1), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_a_transformers_twin(engine: Any, tied: bool) -> None:
    ours = build_ours(tied=tied)
    twin = build_twin(ours, tied=tied)
    tokens = batch()[:, :-1]
    with torch.no_grad():
        difference = (ours_logits(ours, tokens) - twin(tokens).logits).abs().max().item()
    print(f"tied={tied}: max|difference| of logits {difference:.2e}")
    assert difference <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_a_transformers_twin(engine: Any, tied: bool) -> None:
    ours = build_ours(tied=tied)
    twin = build_twin(ours, tied=tied)
    rows = batch()
    mask = torch.ones(2, SEQUENCE, dtype=torch.bool)
    loss = ours(input_ids=rows[:, :-1], input_mask=mask, label_ids=rows[:, 1:], label_mask=mask)["loss"]
    loss.backward()
    twin_logits = twin(rows[:, :-1]).logits
    twin_loss = torch.nn.functional.cross_entropy(twin_logits.flatten(0, 1), rows[:, 1:].flatten())
    twin_loss.backward()
    assert abs(loss.item() - twin_loss.item()) <= 1e-6 * abs(twin_loss.item()) + 1e-6
    pairs = {
        "model.token_position_embeddings.pp_block.token_embedding.weight": twin.model.embed_tokens.weight,
        "model.final_layer_norm.pp_block.weight": twin.model.norm.weight,
        "model.decoder.0.pp_block.attn.o_proj.weight": twin.model.layers[0].self_attn.o_proj.weight,
        "model.decoder.2.pp_block.mlp.down_proj.weight": twin.model.layers[2].mlp.down_proj.weight,
        "model.decoder.1.pp_block.input_layernorm.weight": twin.model.layers[1].input_layernorm.weight,
    }
    gradients = {name: param.grad for name, param in ours.named_parameters()}
    for name, reference in pairs.items():
        assert (gradients[name] - reference.grad).abs().max().item() <= TOLERANCE, name
    qkv = gradients["model.decoder.1.pp_block.attn.qkv_proj.weight"]
    attention = twin.model.layers[1].self_attn
    reference_qkv = torch.cat([getattr(attention, f"{n}_proj").weight.grad for n in "qkv"])
    assert (qkv - reference_qkv).abs().max().item() <= TOLERANCE


def test_masked_labels_do_not_count_and_an_empty_mask_gives_zero(engine: Any) -> None:
    ours = build_ours(tied=True)
    rows = batch()
    mask = torch.ones(2, SEQUENCE, dtype=torch.bool)
    mask[1] = False
    arguments = {"input_ids": rows[:, :-1], "input_mask": mask, "label_ids": rows[:, 1:]}
    with torch.no_grad():
        masked = ours(**arguments, label_mask=mask)["loss"]
        alone = ours(input_ids=rows[:1, :-1], input_mask=mask[:1], label_ids=rows[:1, 1:], label_mask=mask[:1])["loss"]
        empty = ours(**arguments, label_mask=torch.zeros_like(mask))["loss"]
    assert abs(masked.item() - alone.item()) < 1e-6
    assert empty.item() == 0.0


def test_documents_kept_apart_give_the_logits_of_each_alone(engine: Any) -> None:
    ours = build_ours(tied=True)
    rows = batch()[:1]
    boundary = 40
    positions = torch.cat((torch.arange(boundary), torch.arange(SEQUENCE - boundary)))[None]
    mask = torch.ones(1, SEQUENCE, dtype=torch.bool)
    second_only = mask.clone()
    second_only[:, :boundary] = False
    arguments = {"input_ids": rows[:, :-1], "input_mask": mask, "label_ids": rows[:, 1:]}
    with torch.no_grad():
        together = ours(**arguments, label_mask=second_only, position_ids=positions)["loss"]
        alone = ours(
            input_ids=rows[:, boundary:-1],
            input_mask=mask[:, boundary:],
            label_ids=rows[:, boundary + 1 :],
            label_mask=mask[:, boundary:],
        )["loss"]
    assert abs(together.item() - alone.item()) < 1e-5


def test_the_published_model_has_437_760_960_parameters(engine: Any) -> None:
    published = to_plain(load_config("smollm2/zagreus_350M_por.yaml").model.model_config)
    model = build_model(published, dtype=torch.bfloat16, device="meta")
    assert sum(param.numel() for param in model.parameters()) == 437_760_960
