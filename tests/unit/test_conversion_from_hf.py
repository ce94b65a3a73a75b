"""A Hugging Face folder becomes a checkpoint and comes back the same file; what Nanotron cannot express is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.checkpoints.starting_weights import find_starting_weights
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import load_config
from nanotron_zagreus.conversion.from_hf import import_folder
from nanotron_zagreus.conversion.nanotron_layout import pipeline_ranks
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.training.resume_point import read_point
from tests.integration.tiny_runs import tiny_config, write_config
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def hf(tmp_path: Path, tokenizer: Path) -> Path:
    return make_hf(tmp_path, tokenizer)


def make_hf(tmp_path: Path, tokenizer: Path, *, tied: bool = True, dtype: torch.dtype = torch.bfloat16) -> Path:
    write_checkpoint(tmp_path / "source", replace(TINY, tie_word_embeddings=tied), dtype=dtype)
    convert_checkpoint(tmp_path / "source", tmp_path / "hf", tokenizer, verify=False)
    return tmp_path / "hf"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "absent"}))


@pytest.mark.parametrize("layout", [(1, 1, "0.4"), (5, 1, "main"), (1, 3, "0.4"), (5, 2, "0.4")])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_there_and_back_gives_the_same_file(
    tmp_path: Path, tokenizer: Path, layout: tuple[int, int, Any], tied: bool, dtype: torch.dtype
) -> None:
    tp, pp, engine = layout
    hf = make_hf(tmp_path, tokenizer, tied=tied, dtype=dtype)
    record = import_folder(hf, tmp_path / "imported", tp=tp, pp=pp, engine=engine)
    assert record.verification is not None
    assert record.verification.top1_agreement == 1.0
    convert_checkpoint(tmp_path / "imported", tmp_path / "again", tokenizer, verify=False)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (hf / name).read_bytes(), name


def test_an_unpadded_checkpoint_comes_back_file_for_file(tmp_path: Path, hf: Path) -> None:
    import_folder(hf, tmp_path / "imported", verify=False)
    # Nanotron 0.4 builds its metadata from these keys and refuses others.
    metadata = json.loads((tmp_path / "imported/checkpoint_metadata.json").read_text())
    assert set(metadata) == {"version", "tp", "dp", "metas"}
    assert metadata["metas"] == {"consumed_train_samples": 0, "last_train_step": 0}
    source = {
        path.relative_to(tmp_path / "source"): path for path in (tmp_path / "source/model").rglob("*.safetensors")
    }
    assert len(source) == 20
    for relative, path in source.items():
        assert read_shard(tmp_path / "imported" / relative) == read_shard(path), relative


def test_an_import_can_be_verified_and_is_no_step_to_resume(
    tmp_path: Path, hf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "imported/7"  # a name that steps have
    import_folder(hf, folder, tp=5, verify=False)
    assert run(["checkpoints", "verify", str(folder)]) == 0
    assert run(["checkpoints", "list", str(folder.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("[")[2].rpartition("]")[0])["state"] == "whole"
    with pytest.raises(InputError, match=r"imported weights.*model\.init_method\.path"):
        read_point(folder)
    shard = next((folder / "model").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert run(["checkpoints", "verify", str(folder)]) == 3
    assert shard.name in capsys.readouterr().err


def read_shard(path: Path) -> tuple[dict[str, str], bytes]:
    """Return metadata and data; safetensors writes the metadata in no fixed order."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def test_padded_rows_are_zeros_for_this_project_and_the_mean_row_for_upstream(tmp_path: Path, hf: Path) -> None:
    name = "model.token_position_embeddings.pp_block.token_embedding.weight"
    padded = import_folder(hf, tmp_path / "ours", tp=5, verify=False)
    assert [notice.partition(":")[0] for notice in padded.notices] == ["vocabulary padded from 131 to 135 rows"]
    assert not import_folder(hf, tmp_path / "unpadded", verify=False).notices
    import_folder(hf, tmp_path / "theirs", tp=5, engine="main", verify=False)
    ours, theirs = (open_model_shards(tmp_path / folder).tensors[name].read() for folder in ("ours", "theirs"))
    assert ours.shape == theirs.shape == (135, 40)
    assert not ours[131:].any()
    assert torch.equal(theirs[131:], theirs[:131].float().mean(0).to(torch.bfloat16).expand(4, -1))


def test_upstream_s_json_files_hold_its_documented_keys(tmp_path: Path, hf: Path) -> None:
    import_folder(hf, tmp_path / "imported", tp=5, engine="main", verify=False)
    metadata = json.loads((tmp_path / "imported/checkpoint_metadata.json").read_text())
    assert set(metadata) == {"version", "tp", "dp", "metas", "cp", "custom_metas"}
    assert (metadata["version"], metadata["tp"]) == ("1.5", 5)
    assert metadata["metas"]["consumed_train_samples"] == 0
    config = json.loads((tmp_path / "imported/model_config.json").read_text())
    assert config["is_llama_config"] is True
    assert config["rope_interleaved"] is False
    # Every key of upstream main's LlamaConfig, which is built from this file without tolerance.
    assert set(config) == {
        "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range", "intermediate_size",
        "is_llama_config", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "attention_bias",
        "num_key_value_heads", "pad_token_id", "pretraining_tp", "rms_norm_eps", "rope_scaling", "rope_theta",
        "rope_interleaved", "tie_word_embeddings", "use_cache", "vocab_size", "_attn_implementation",
        "z_loss_enabled", "z_loss_coefficient",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_model_section_that_is_printed_starts_training_from_the_import(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    hf, out = make_hf(tmp_path, tokenizer, tied=False, dtype=dtype), tmp_path / "imported"
    change_config(hf, rope_theta=5e5, rope_parameters="absent", eos_token_id=[1, 2])
    assert run(["import", str(hf), str(out), "--tp", "5", "--make-vocab-size-divisible-by", "4"]) == 0
    printed = capsys.readouterr().out
    assert "note: config.json names several eos_token_id, [1, 2]" in printed
    written = (out / "model_section.yaml").read_text()
    assert written in printed
    section = yaml.safe_load(written)
    assert section == json.loads((out / "conversion.json").read_text())["model_section"]
    assert section["model"]["model_config"]["vocab_size"] == 131
    assert json.loads((out / "model_config.json").read_text())["vocab_size"] == 140
    config = load_config(write_config(tmp_path / "run.yaml", tiny_config(tmp_path) | section))
    assert find_starting_weights(config) == out
    assert config.model.model_config.eos_token_id == 1
    assert config.model.dtype == str(dtype).removeprefix("torch.")
    assert config.padded_vocab_size == 132


def test_blocks_are_placed_as_the_engine_places_them() -> None:
    ranks = pipeline_ranks(replace(TINY, num_hidden_layers=4, vocab_size=8), 2)
    layers = [ranks[f"model.decoder.{layer}."] for layer in range(4)]
    # The rank changes after the block that passes half of the cost, so the third layer is still the first rank's.
    assert layers == [0, 0, 0, 1]
    assert ranks["model.lm_head.pp_block.weight"] == 1
    assert set(pipeline_ranks(TINY, 1).values()) == {0}


def test_a_sharded_folder_is_read(tmp_path: Path, hf: Path) -> None:
    tensors = load_file(hf / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, hf / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, members in parts.items() for name in members}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    (hf / "model.safetensors").unlink()
    record = import_folder(hf, tmp_path / "imported")
    assert record.verification is not None
    save_file({name: tensors[name] for name in names}, hf / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"is in both model-00001-of-00002\.safetensors and model-00002"):
        import_folder(hf, tmp_path / "other")
    (hf / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingInputError, match="model-00002"):
        import_folder(hf, tmp_path / "other")


def test_a_tied_head_stored_twice_must_be_the_embedding(tmp_path: Path, hf: Path) -> None:
    tensors = load_file(hf / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    import_folder(hf, tmp_path / "imported", verify=False)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="ties the embeddings"):
        import_folder(hf, tmp_path / "other", verify=False)


def test_rounding_is_noted_and_verified(tmp_path: Path, tokenizer: Path) -> None:
    hf = make_hf(tmp_path, tokenizer, dtype=torch.float32)
    record = import_folder(hf, tmp_path / "imported", dtype="bfloat16")
    assert record.dtype == "BF16"
    assert any("F32" in notice for notice in record.notices)
    assert record.verification is not None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "qwen2"}, "model_type"),
        ({"quantization_config": {"bits": 4}}, "quantis"),
        ({"head_dim": 8}, "head_dim"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 32.0}}, "llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_theta": 500000.0}, "disagree"),
        ({"hidden_size": 80}, "head_dim"),
        ({"intermediate_size": 81}, "shape"),
        ({"num_hidden_layers": 4}, "missing"),
        ({"num_hidden_layers": 2}, "no tensor of a plain Llama"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"rope_theta": [1]}, "rope_theta"),
        ({"bos_token_id": "<s>"}, "bos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": [1, True]}, "eos_token_id"),
        ({"pad_token_id": 131}, "pad_token_id.*less than vocab_size 131"),
    ],
)
def test_a_model_that_training_cannot_express_is_refused(
    tmp_path: Path, hf: Path, changes: dict[str, Any], word: str
) -> None:
    change_config(hf, **changes)
    with pytest.raises(InputError, match=word):
        import_folder(hf, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_what_transformers_cannot_load_is_one_clear_error(
    tmp_path: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Padding_idx must be\nwithin num_embeddings")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    with pytest.raises(VerificationError, match="transformers cannot load it: Padding_idx must be within"):
        import_folder(hf, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_a_config_of_either_transformers_generation_gives_the_same_theta(tmp_path: Path, tokenizer: Path) -> None:
    plain = {"rope_type": "default", "rope_theta": 5e5}
    for name, theta, parameters in (("v4", 5e5, "absent"), ("v5", "absent", plain), ("both", 5e5, plain)):
        (tmp_path / name).mkdir()
        hf = make_hf(tmp_path / name, tokenizer)
        change_config(hf, rope_theta=theta, rope_parameters=parameters)
        import_folder(hf, tmp_path / name / "imported")
        config = json.loads((tmp_path / name / "imported/model_config.json").read_text())
        assert config["rope_theta"] == 5e5


@pytest.mark.parametrize(("sizes", "word"), [({"tp": 2}, "num_key_value_heads"), ({"pp": 4}, "pp"), ({"tp": 0}, "tp")])
def test_sizes_that_do_not_divide_the_model_are_refused(
    tmp_path: Path, hf: Path, sizes: dict[str, int], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        import_folder(hf, tmp_path / "imported", **sizes)  # type: ignore[arg-type]


def test_what_is_no_hugging_face_folder_is_told_what_it_is(tmp_path: Path, hf: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in it; give a Hugging Face folder.*hf download"):
        import_folder(tmp_path / "none", tmp_path / "imported")
    with pytest.raises(InputError, match=r"Nanotron checkpoint.*model\.init_method\.path"):
        import_folder(tmp_path / "source", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_pickled_weights_are_named_and_not_loaded(tmp_path: Path, hf: Path) -> None:
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    with pytest.raises(MissingInputError, match="pickle"):
        import_folder(hf, tmp_path / "imported")
