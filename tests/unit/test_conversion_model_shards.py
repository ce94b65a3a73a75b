"""The reader gives back every tensor bit for bit from any layout, and refuses every damaged folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nanotron_zagreus.checkpoints.manifest import FileRecord, hash_file, write_manifest
from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from tests.unit.conversion_fixtures import TINY, write_checkpoint

QKV = Path("model/model/decoder/1/pp_block/attn/qkv_proj")


@pytest.mark.parametrize("tp", [1, 5])
@pytest.mark.parametrize("pp", [1, 3])
def test_whole_tensors_come_back_bit_for_bit(tmp_path: Path, tp: int, pp: int) -> None:
    tensors = write_checkpoint(tmp_path, tp=tp, pp=pp, dtype=torch.bfloat16)
    shards = open_model_shards(tmp_path)
    assert (shards.tp, shards.pp, shards.versions) == (tp, pp, ("1.2",))
    assert set(shards.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(shards.tensors[name].read().view(torch.int16), tensor.view(torch.int16)), name


def test_rows_across_shard_borders_are_read(tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path, tp=5)
    for name, tensor in tensors.items():
        stored = open_model_shards(tmp_path).tensors[name]
        assert torch.equal(stored.read(3, 29), tensor[3:29]), name


def test_numpy_2_shapes_in_the_metadata_are_read(tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path, tp=5)
    for path in (tmp_path / QKV).iterdir():
        with safe_open(path, "pt") as file:
            metadata, data = file.metadata(), file.get_tensor("data").clone()
        metadata["unsharded_shape"] = "(np.int64(80), 40)"
        save_file({"data": data}, path, metadata=metadata)
    name = "model.decoder.1.pp_block.attn.qkv_proj.weight"
    assert torch.equal(open_model_shards(tmp_path).tensors[name].read(), tensors[name])


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tp=5)
    next((tmp_path / QKV).glob("*tp-rank-3-*")).unlink()
    with pytest.raises(MissingInputError, match=r"tp-rank-3-of-5.*qkv_proj"):
        open_model_shards(tmp_path)


def test_a_missing_pipeline_rank_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, pp=3)
    shutil.rmtree(tmp_path / "model/model/decoder/2")
    with pytest.raises(InputError, match=r"missing.*decoder\.2"):
        open_checkpoint(tmp_path)


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "five", tp=5)
    write_checkpoint(tmp_path / "one", tp=1)
    shutil.copytree(tmp_path / "five", tmp_path / "one", dirs_exist_ok=True)
    with pytest.raises(InputError, match="2 layouts"):
        open_model_shards(tmp_path / "one")


def test_one_tensor_on_two_pipeline_ranks_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, pp=2)
    path = next((tmp_path / QKV).glob("*pp-rank-0*"))
    shutil.copy(path, path.with_name(path.name.replace("pp-rank-0", "pp-rank-1")))
    with pytest.raises(InputError, match="once"):
        open_model_shards(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 7, 100, 3000])
def test_a_truncated_file_is_named(tmp_path: Path, num_bytes: int) -> None:
    write_checkpoint(tmp_path)
    path = next((tmp_path / QKV).iterdir())
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(InputError, match=r"qkv_proj.*(damaged|cut off)"):
        open_model_shards(tmp_path)


def test_pickles_are_named_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model/model").mkdir(parents=True)
    (tmp_path / "model/model/weights.pt").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(MissingInputError, match="pickle"):
        open_model_shards(tmp_path)


def test_foreign_keys_and_names_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    norm = tmp_path / "model/model/final_layer_norm/pp_block/model_weight.safetensors"
    save_file({"data": torch.ones(40), "scale": torch.ones(1)}, norm)
    with pytest.raises(InputError, match="scale"):
        open_model_shards(tmp_path)
    norm.rename(norm.with_name("weights.safetensors"))
    with pytest.raises(InputError, match="unknown file name"):
        open_model_shards(tmp_path)


def test_tensors_and_shapes_the_config_does_not_mean_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "model_config.json").read_text())
    (tmp_path / "model_config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"do not belong.*decoder\.2"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_config.json").write_text(json.dumps(config | {"intermediate_size": 60}))
    with pytest.raises(InputError, match=r"gate_up_proj.*shape"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(InputError, match="lm_head"):
        open_checkpoint(tmp_path)


def test_a_shard_without_metadata_is_refused_only_when_it_is_a_part(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one", tp=1)
    write_checkpoint(tmp_path / "five", tp=5)
    for folder in ("one", "five"):
        for path in (tmp_path / folder / QKV).iterdir():
            with safe_open(path, "pt") as file:
                data = file.get_tensor("data").clone()
            save_file({"data": data}, path)
    open_model_shards(tmp_path / "one")
    with pytest.raises(InputError, match="older"):
        open_model_shards(tmp_path / "five")


def test_the_newest_of_several_steps_is_taken_and_said(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20", replace(TINY, tie_word_embeddings=False))
    (tmp_path / "latest.txt").write_text("20")
    source = open_checkpoint(tmp_path)
    assert source.path == tmp_path / "20"
    assert source.step == 20
    assert "newest" in source.notices[0]
    (tmp_path / "latest.txt").write_text("40")
    with pytest.raises(InputError, match="40"):
        open_checkpoint(tmp_path)


def test_weights_of_two_dtypes_and_a_layout_that_the_metadata_does_not_name_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20", tp=5, dtype=torch.bfloat16)
    metadata = tmp_path / "20/checkpoint_metadata.json"
    written = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(written | {"tp": 1}))
    with pytest.raises(InputError, match="says tp = 1, the shards are of tp = 5"):
        open_checkpoint(tmp_path / "20")
    metadata.write_text(json.dumps(written))
    norm = tmp_path / "20/model/model/final_layer_norm/pp_block/model_weight.safetensors"
    save_file({"data": torch.ones(40)}, norm)
    with pytest.raises(InputError, match=r"dtype BF16, F32; expected all of one"):
        open_checkpoint(tmp_path / "20")


def test_without_metadata_the_folder_s_name_says_the_step(tmp_path: Path) -> None:
    for name, step in (("20", 20), ("imported", None)):
        write_checkpoint(tmp_path / name)
        (tmp_path / name / "checkpoint_metadata.json").unlink()
        source = open_checkpoint(tmp_path / name)
        assert (source.step, source.consumed_samples) == (step, None)


@pytest.mark.parametrize(("value", "multiple"), [("8", 40), ("0", 5), ("null", 5), ("many", 5)])
def test_the_padding_of_a_vocabulary_is_the_run_s(tmp_path: Path, value: str, multiple: int) -> None:
    write_checkpoint(tmp_path / "20", tp=5)
    (tmp_path / "20/config.yaml").write_text(f"model: {{make_vocab_size_divisible_by: {value}}}")
    assert open_checkpoint(tmp_path / "20").padding_multiple == multiple


def test_a_manifest_covers_what_conversion_reads_and_nothing_else(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "20")
    (tmp_path / "20/optimizer").mkdir()
    (tmp_path / "20/optimizer/moments.safetensors").write_bytes(b"moments")
    files = [path for path in sorted((tmp_path / "20").rglob("*")) if path.is_file()]
    write_manifest(
        tmp_path / "20",
        [
            FileRecord(path=f"{f.relative_to(tmp_path / '20')}", bytes=f.stat().st_size, sha256=hash_file(f))
            for f in files
        ],
        {"step": 20},
    )
    shutil.rmtree(tmp_path / "20/optimizer")
    assert open_checkpoint(tmp_path / "20").step == 20
    norm = tmp_path / "20/model/model/final_layer_norm/pp_block/model_weight.safetensors"
    norm.write_bytes(norm.read_bytes()[:-1] + b"\x01")
    with pytest.raises(VerificationError, match="final_layer_norm"):
        open_checkpoint(tmp_path / "20")
