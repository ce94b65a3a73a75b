"""GGUF files hold the same model: exactly where the type can, within its rounding where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from nanotron_zagreus.conversion.gguf_export import write_gguf
from nanotron_zagreus.conversion.gguf_tokenizer import LLAMA_3_SPLIT, name_word_split
from nanotron_zagreus.conversion.gguf_verify import verify_gguf
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.conversion.tokenizer_files import find_tokenizer
from nanotron_zagreus.errors import InputError, VerificationError
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder

WIDE = replace(
    TINY, hidden_size=96, num_attention_heads=6, num_key_value_heads=2, intermediate_size=128, vocab_size=260
)


def convert(folder: Path, gguf_type: str, *, dtype: torch.dtype = torch.bfloat16, tied: bool = True):  # type: ignore[no-untyped-def]
    tokenizer = write_tokenizer_folder(folder / "tokenizer", 260)
    arch = replace(WIDE, tie_word_embeddings=tied)
    write_checkpoint(folder / "20", arch, dtype=dtype)
    return convert_checkpoint(folder / "20", folder / "hf", tokenizer, gguf=gguf_type), arch  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gguf_type", "dtype"), [("F32", torch.float32), ("F32", torch.bfloat16), ("BF16", torch.bfloat16)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_types_that_hold_the_weights_give_the_same_logits(
    tmp_path: Path, gguf_type: str, dtype: torch.dtype, tied: bool
) -> None:
    record, _ = convert(tmp_path, gguf_type, dtype=dtype, tied=tied)
    assert record.gguf is not None
    assert record.gguf.max_logit_difference == 0.0
    assert record.gguf.top1_agreement == 1.0


@pytest.mark.parametrize("gguf_type", ["BF16", "Q8_0"])
def test_types_that_round_stay_within_their_bounds(tmp_path: Path, gguf_type: str) -> None:
    record, _ = convert(tmp_path, gguf_type, dtype=torch.float32)
    assert record.gguf is not None
    assert record.gguf.kl_divergence is not None
    assert 0 < record.gguf.kl_divergence < 0.02


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # gguf's own arithmetic on subnormal blocks
@pytest.mark.parametrize("gguf_type", ["F32", "BF16", "Q8_0"])
def test_rows_decayed_to_nothing_are_held_as_well_as_the_type_can(tmp_path: Path, gguf_type: str) -> None:
    """Tokens that never occur have embedding rows that weight decay shrinks by e^-24 over the published schedule."""
    _, arch = convert(tmp_path, gguf_type, dtype=torch.float32)
    path = tmp_path / "hf/model.safetensors"
    tensors = load_file(path)
    for row, scale in ((7, 1e-3), (8, 1e-6), (9, 1e-12), (10, 1e-30), (11, 1e-40)):
        tensors["model.embed_tokens.weight"][row] *= scale
    save_file(tensors, path, metadata={"format": "pt"})
    (tmp_path / f"hf/model-{gguf_type}.gguf").unlink()
    record = write_gguf(tmp_path / "hf", arch, gguf_type)  # type: ignore[arg-type]
    assert record.max_logit_difference is not None


def test_one_weight_of_another_model_is_caught_in_a_rounded_file(tmp_path: Path) -> None:
    _, arch = convert(tmp_path, "Q8_0")
    path = tmp_path / "hf/model-Q8_0.gguf"
    tensor = next(t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "blk.1.ffn_up.weight")
    tensor.data[3, 5] ^= 1
    with pytest.raises(VerificationError, match="up_proj"):
        verify_gguf(tmp_path / "hf", path, arch, "Q8_0")


def test_the_file_names_its_model_and_tokenizer(tmp_path: Path) -> None:
    convert(tmp_path, "Q8_0")
    reader = gguf.GGUFReader(tmp_path / "hf/model-Q8_0.gguf")
    values = {name: field.contents() for name, field in reader.fields.items() if "tokens" not in name}
    assert values["general.architecture"] == "llama"
    assert values["llama.attention.head_count_kv"] == 2
    assert values["llama.rope.freq_base"] == 10000.0
    assert values["tokenizer.ggml.pre"] == "gpt-2"
    assert values["tokenizer.ggml.eos_token_id"] == 1
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_a_wrong_order_of_query_rows_is_caught(tmp_path: Path) -> None:
    _, arch = convert(tmp_path, "F32")
    path = tmp_path / "hf/model-F32.gguf"
    tensor = next(t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "blk.1.attn_q.weight")
    tensor.data[:] = tensor.data[::-1].copy()
    with pytest.raises(VerificationError, match="q_proj"):
        verify_gguf(tmp_path / "hf", path, arch, "F32")


def test_what_gguf_cannot_hold_is_refused_before_writing(tmp_path: Path) -> None:
    tokenizer = write_tokenizer_folder(tmp_path / "tokenizer")
    write_checkpoint(tmp_path / "20")
    with pytest.raises(InputError, match="multiple of 32"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, gguf="Q8_0")
    path = tokenizer / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(InputError, match="no name in GGUF"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, gguf="F32")
    assert not (tmp_path / "hf").exists()


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA_3 = {"type": "Split", "pattern": {"Regex": LLAMA_3_SPLIT}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LLAMA_3, BYTES]}}, "llama-bpe"),
        ({"pre_tokenizer": BYTES | {"use_regex": True}}, "gpt-2"),
        ({"pre_tokenizer": BYTES}, None),
        ({"pre_tokenizer": BYTES | {"use_regex": True, "add_prefix_space": True}}, None),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LLAMA_3, BYTES | {"use_regex": True}]}}, None),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LLAMA_3 | {"pattern": {"Regex": "x"}}, BYTES]}},
            None,
        ),
        ({"normalizer": {"type": "NFC"}}, None),
    ],
)
def test_only_a_word_split_that_gguf_has_a_name_for_is_named(
    tmp_path: Path, changes: dict[str, object], name: str | None
) -> None:
    path = write_tokenizer_folder(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if name:
        assert name_word_split(find_tokenizer(tmp_path)) == name
    else:
        with pytest.raises(InputError, match=r"no name in GGUF|normalizes text"):
            name_word_split(find_tokenizer(tmp_path))


def test_the_test_s_tokenizer_has_two_merges(tmp_path: Path) -> None:
    """With one, transformers 4.57 reads a GGUF file's merges as text and not as a list of one."""
    data = json.loads((write_tokenizer_folder(tmp_path, 260) / "tokenizer.json").read_text())
    assert len(data["model"]["merges"]) == 2
    assert len(data["model"]["vocab"]) == 260
