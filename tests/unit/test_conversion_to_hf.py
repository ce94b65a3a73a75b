"""A checkpoint of any layout becomes a folder that computes the same; bad input leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.convert import write_masters
from nanotron_zagreus.checkpoints.manifest import FileRecord, hash_file, write_manifest
from nanotron_zagreus.conversion import source
from nanotron_zagreus.conversion.from_hf import import_folder
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("layout", [(1, 1, "1.2"), (5, 1, "1.2"), (1, 3, "1.5"), (5, 2, "1.5")])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_layout_converts_exactly(
    tmp_path: Path, tokenizer: Path, layout: tuple[int, int, str], tied: bool, interleaved: bool, dtype: torch.dtype
) -> None:
    tp, pp, version = layout
    arch = replace(TINY, tie_word_embeddings=tied, rope_interleaved=interleaved)
    write_checkpoint(tmp_path / "20", arch, tp=tp, pp=pp, dtype=dtype, version=version)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    assert record.verification is not None
    assert record.verification.top1_agreement == 1.0
    assert record.verification.num_greedy_tokens_equal == 16
    assert record.architecture["vocab_size"] == TINY.vocab_size
    assert (record.step, record.consumed_samples, record.checkpoint_versions) == (20, 640, (version,))
    assert any("cut from 135 to 131" in notice for notice in record.notices) == (tp == 5)
    written = json.loads((tmp_path / "hf/conversion.json").read_text())
    assert written["verification"]["num_elements_equal"] == record.verification.num_elements_equal


def test_a_checkpoint_of_the_engine_s_own_llama_is_read_as_interleaved(tmp_path: Path, tokenizer: Path) -> None:
    tensors = write_checkpoint(tmp_path / "20", replace(TINY, rope_interleaved=True))
    path = tmp_path / "20/model_config.json"
    config = json.loads(path.read_text())
    del config["rope_interleaved"], config["rope_theta"]
    path.write_text(json.dumps(config))
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    assert sum("nanotron 0.4's own Llama" in notice for notice in record.notices) == 2
    assert len(tensors) == 20


def test_the_dense_configuration_upstream_main_forces_on_every_model_is_read(tmp_path: Path, tokenizer: Path) -> None:
    """Main turns a dictionary in the YAML into its Qwen2Config (config.py:321), which without biases is a Llama."""
    write_checkpoint(tmp_path / "20", version="1.5")
    path = tmp_path / "20/model_config.json"
    config = json.loads(path.read_text())
    del config["is_llama_config"]
    config |= {
        "is_qwen2_config": True, "rope_seq_len_interpolation_factor": None, "_attn_implementation": "flash_attention_2",
        "flex_attention_mask": None, "attention_bias": False, "sliding_window_size": None, "z_loss_enabled": False,
        "z_loss_coefficient": 0.0001, "no_rope_layer": None, "_fused_rotary_emb": True, "_fused_rms_norm": True,
        "_use_qkv_packed": True, "_use_doc_masking": False, "log_attn_probs": True, "ring_attn_heads_k_stride": None,
        "moe_config": None,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    assert record.verification is not None
    path.write_text(json.dumps(config | {"no_rope_layer": 4}))
    with pytest.raises(InputError, match="no_rope_layer"):
        convert_checkpoint(tmp_path / "20", tmp_path / "other", tokenizer)


def test_weights_in_several_files_are_the_same_weights(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")
    one = convert_checkpoint(tmp_path / "20", tmp_path / "one", tokenizer)
    several = convert_checkpoint(tmp_path / "20", tmp_path / "several", tokenizer, max_file_bytes=30_000)
    assert [file.name for file in one.weights] == ["model.safetensors"]
    assert len(several.weights) > 3
    assert all(file.num_bytes < 33_000 for file in several.weights)
    index = json.loads((tmp_path / "several/model.safetensors.index.json").read_text())
    wanted = load_file(tmp_path / "one/model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())
    assert set(index["weight_map"]) == set(wanted)
    each = convert_checkpoint(tmp_path / "20", tmp_path / "each", tokenizer, max_file_bytes=1, verify=False)
    assert len(each.weights) == len(wanted)  # a tensor larger than that has a file of its own, and no file is empty
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "several" / file)[name], wanted[name]), name


def test_the_recorded_hash_is_the_file_s(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, verify=False)
    raw = (tmp_path / "hf/model.safetensors").read_bytes()
    assert record.weights[0].sha256 == hashlib.sha256(raw).hexdigest()
    assert record.weights[0].num_bytes == len(raw)


def test_masters_of_float32_weights_or_from_pickles_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "fp32")
    with pytest.raises(InputError, match="no other masters"):
        convert_checkpoint(tmp_path / "fp32", tmp_path / "hf", tokenizer, masters=True)
    write_checkpoint(tmp_path / "bf16", dtype=torch.bfloat16)
    (tmp_path / "bf16/optimizer").mkdir()
    (tmp_path / "bf16/optimizer/optimizer_pp-0-of-1_tp-0-of-1.pt").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(InputError, match="pickle"):
        convert_checkpoint(tmp_path / "bf16", tmp_path / "hf", tokenizer, masters=True)


def test_widening_and_rounding_are_recorded_and_verified(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20", dtype=torch.float32)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, dtype="bfloat16")
    assert (record.stored_dtype, record.dtype) == ("F32", "BF16")
    assert record.verification is not None


def test_weights_that_are_not_finite_leave_no_folder(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")
    path = tmp_path / "20/model/model/final_layer_norm/pp_block/model_weight.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(raw)
    with pytest.raises(VerificationError, match="not finite"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["20"]


@pytest.mark.parametrize(("num_tokens", "word"), [(140, "not the tokenizer"), (100, "--vocab-size")])
def test_another_tokenizer_is_refused(tmp_path: Path, num_tokens: int, word: str) -> None:
    write_checkpoint(tmp_path / "20", tp=5)
    other = write_tokenizer_folder(tmp_path / "other", num_tokens)
    with pytest.raises(InputError, match=word):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", other)
    assert not (tmp_path / "hf").exists()


def test_unused_rows_are_kept_when_asked_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    other = write_tokenizer_folder(tmp_path / "other", 100)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", other, vocab_size=131)
    assert record.architecture["vocab_size"] == 131


def test_another_end_of_text_is_refused_until_someone_says_who_is_right(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20", replace(TINY, eos_token_id=2))
    with pytest.raises(InputError, match=r"eos_token.*--special-tokens"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, special_tokens="tokenizer")
    assert json.loads((tmp_path / "hf/config.json").read_text())["eos_token_id"] == 1


def test_a_destination_in_use_is_refused_and_kept(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)
    assert (tmp_path / "hf/mine.txt").read_text() == "kept"


def test_a_destination_inside_what_is_read_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")
    with pytest.raises(InputError, match="lies inside"):
        convert_checkpoint(tmp_path / "20", tmp_path / "20/hf", tokenizer)
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, verify=False)
    with pytest.raises(InputError, match="lies inside"):
        import_folder(tmp_path / "hf", tmp_path / "hf/imported")
    assert not (tmp_path / "20/hf").exists() and not (tmp_path / "hf/imported").exists()


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "20")

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, progress=interrupt)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["20"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_thetta": 5e5}, "rope_theta"),
        ({"hidden_size": "40"}, "hidden_size"),
        ({"num_attention_heads": 7}, "head_dim"),
        ({"is_starcoder2_config": True}, "Starcoder2"),
        ({"moe_config": {"num_experts": 8}}, "moe_config"),
        ({"pad_token_id": [1]}, "pad_token_id"),
        ({"pad_token_id": 131}, "pad_token_id.*less than vocab_size 131"),
    ],
)
def test_a_model_that_is_no_plain_llama_is_refused(
    tmp_path: Path, tokenizer: Path, change: dict[str, object], word: str
) -> None:
    write_checkpoint(tmp_path / "20")
    path = tmp_path / "20/model_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=word):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_damaged_model_config_is_refused(tmp_path: Path, tokenizer: Path, text: str) -> None:
    write_checkpoint(tmp_path / "20")
    (tmp_path / "20/model_config.json").write_text(text)
    with pytest.raises(InputError, match=r"model_config\.json"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer)


def test_a_tokenizer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    with pytest.raises(MissingInputError, match="no such file"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf", tmp_path / "nowhere")


def test_a_tokenizer_larger_than_the_run_s_vocabulary_is_refused_though_padding_has_room(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20", tp=5)
    (tmp_path / "20/config.yaml").write_text("model: {model_config: {vocab_size: 131}}")
    for num_tokens in (134, 130):
        other = write_tokenizer_folder(tmp_path / str(num_tokens), num_tokens)
        with pytest.raises(InputError, match=f"{num_tokens} tokens, while the run was configured with vocab_size 131"):
            convert_checkpoint(tmp_path / "20", tmp_path / "hf", other)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", other, vocab_size=131, verify=False)
    assert record.architecture["vocab_size"] == 131


def test_a_tokenizer_that_did_not_make_the_data_is_refused_unless_accepted(tmp_path: Path, tokenizer: Path) -> None:
    """Same size, same special tokens, other ids: nothing but the file's hash tells them apart."""
    write_checkpoint(tmp_path / "20")
    files = [path.relative_to(tmp_path / "20") for path in (tmp_path / "20").rglob("*") if path.is_file()]
    records = [
        FileRecord(
            path=str(path), bytes=(tmp_path / "20" / path).stat().st_size, sha256=hash_file(tmp_path / "20" / path)
        )
        for path in files
    ]
    sources = {"0": {"tokenizer_sha256": hash_file(tokenizer / "tokenizer.json")}, "1": {"tokenizer_sha256": None}}
    write_manifest(tmp_path / "20", records, {"data": {"sources": sources}})
    convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, verify=False)
    other = write_tokenizer_folder(tmp_path / "other")
    data = json.loads((other / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = {token: index if index < 2 else 132 - index for token, index in vocabulary.items()}
    (other / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"SHA-256.*--accept-tokenizer"):
        convert_checkpoint(tmp_path / "20", tmp_path / "hf2", other)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf2", other, accept_tokenizer=True, verify=False)
    assert any("accepted as asked" in notice for notice in record.notices)


def test_master_weights_must_round_to_the_weights_beside_them(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared a few rows at a time; a difference in the last ones is found, too."""
    monkeypatch.setattr(source, "_COMPARED_ROWS", 7)
    write_checkpoint(tmp_path / "20", tp=5, dtype=torch.bfloat16)
    write_masters(tmp_path / "20", 5)
    record = convert_checkpoint(tmp_path / "20", tmp_path / "hf", tokenizer, masters=True, verify=False)
    assert (record.dtype, record.masters) == ("F32", True)
    path = next((tmp_path / "20/model").rglob("*gate_up*/*tp-rank-4-of-5.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"gate_up.*do not round"):
        convert_checkpoint(tmp_path / "20", tmp_path / "again", tokenizer, masters=True)
    assert not (tmp_path / "again").exists()
