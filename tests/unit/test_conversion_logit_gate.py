"""The gate allows what fp32 rounding does in the very model, and still catches a wrong constant there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from nanotron_zagreus.checkpoints.model_shards_writing import Placement, write_tensor_shards
from nanotron_zagreus.conversion import logit_gate
from nanotron_zagreus.conversion.logit_gate import MAX_LOGIT_DIFFERENCE, greedy_tokens, verify_logits
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.conversion.verify import load_model
from nanotron_zagreus.conversion.weight_map import FINAL_NORM
from nanotron_zagreus.errors import VerificationError
from tests.unit.conversion_fixtures import write_checkpoint, write_tokenizer_folder


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A checkpoint whose logits are 256 times as large: fp32 moves them by more than what small ones may differ."""
    write_checkpoint(tmp_path / "20")
    (path,) = (tmp_path / "20/model/model/final_layer_norm/pp_block").iterdir()
    weight = load_file(path)["data"].clone()
    path.unlink()
    write_tensor_shards(tmp_path / "20", FINAL_NORM, 256 * weight, None, Placement(1, 1, 0), "1.2")
    write_tokenizer_folder(tmp_path / "tokenizer")
    return tmp_path


def test_large_logits_may_differ_by_what_rounding_does_to_them(loud: Path) -> None:
    record = convert_checkpoint(loud / "20", loud / "hf", loud / "tokenizer")
    assert record.verification is not None
    assert record.verification.fp32_rounding > MAX_LOGIT_DIFFERENCE
    assert record.verification.max_logit_difference <= 4 * record.verification.fp32_rounding


def test_a_wrong_epsilon_shows_above_the_rounding_of_large_logits(loud: Path) -> None:
    convert_checkpoint(loud / "20", loud / "hf", loud / "tokenizer", verify=False)
    path = loud / "hf/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-6}))
    source = open_checkpoint(loud / "20")
    with pytest.raises(VerificationError, match="logits"):
        verify_logits(load_model(loud / "hf"), source.arch, source.read)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_never_pass(loud: Path, value: float) -> None:
    convert_checkpoint(loud / "20", loud / "hf", loud / "tokenizer", verify=False)
    source = open_checkpoint(loud / "20")

    def overflowing(name: str) -> torch.Tensor:
        return torch.full_like(source.read(name), value) if name == FINAL_NORM else source.read(name)

    with pytest.raises(VerificationError, match="logits"):
        verify_logits(load_model(loud / "hf"), source.arch, overflowing)


def test_the_figures_are_those_of_the_found_logits_against_the_reference() -> None:
    num_positions = logit_gate.NUM_RANDOM_TOKENS + logit_gate.NUM_GREEDY_TOKENS
    wanted = torch.zeros(num_positions, 5, dtype=torch.float64)
    wanted[:, 1] = 1
    found = wanted.float()
    found[0, 2] = 3  # put first; to the reference token 1 is 1 ahead of it
    token_ids = torch.ones(num_positions, dtype=torch.long)
    token_ids[-1] = 3  # generated; the reference puts token 1 there, too, 1 ahead
    figures, largest_tie = logit_gate._compare(found, wanted, token_ids)
    losses = [torch.nn.functional.cross_entropy(logits[:-1], token_ids[1:]).item() for logits in (found, wanted)]
    assert figures["loss_difference"] == pytest.approx(losses[0] - losses[1], rel=1e-4) and losses[0] > losses[1]
    assert (figures["num_positions"], figures["num_greedy_tokens_equal"]) == (num_positions, 15)
    assert (figures["max_logit_difference"], figures["top1_agreement"]) == (3, 1 - 1 / num_positions)
    assert largest_tie == 1


def test_greedy_tokens_come_from_a_cache_under_whatever_name_transformers_gives_it() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).eval()
    lengths = []

    def renamed(input_ids: torch.Tensor, attention_mask=None, position_ids=None, renamed_cache=None, use_cache=None):  # type: ignore[no-untyped-def]
        lengths.append(input_ids.shape[1])
        return model(input_ids, attention_mask, position_ids, renamed_cache, use_cache=use_cache)

    prompt = torch.tensor([3, 1, 4, 1, 5])
    found = greedy_tokens(renamed, prompt, 6)
    whole = prompt
    for _ in range(6):
        whole = torch.cat((whole, model(whole[None]).logits[0, -1:].argmax(-1)))
    assert found.tolist() == whole[len(prompt) :].tolist()
    assert lengths == [5, 1, 1, 1, 1, 1]
