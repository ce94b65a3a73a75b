"""Tokenizers are copied as they are, rewritten only where transformers 4 could not read them, refused when unusable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer

from nanotron_zagreus.conversion.tokenizer_files import find_tokenizer, write_tokenizer
from nanotron_zagreus.conversion.verify_tokenizer import verify_tokenizer
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from tests.unit.conversion_fixtures import NUM_TOKENS, TINY, write_tokenizer_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tokenizer_folder(tmp_path / "source")


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def written(source: Path, out: Path) -> tuple[dict[str, Any], list[str]]:
    out.mkdir()
    notices = write_tokenizer(find_tokenizer(source), out, TINY)
    return json.loads((out / "tokenizer_config.json").read_text()), notices


def test_what_transformers_5_saves_becomes_what_transformers_4_reads(source: Path, tmp_path: Path) -> None:
    change(source / "tokenizer_config.json", extra_special_tokens=["</s>"], is_local=True)
    config, notices = written(source, tmp_path / "out")
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": ["</s>"],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    merges = json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    assert len(notices) == 2


def test_what_every_version_reads_is_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    portable = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
    }  # fmt: skip
    (source / "tokenizer_config.json").write_text(json.dumps(portable, indent=7))
    data = json.loads((source / "tokenizer.json").read_text())
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    (source / "tokenizer.json").write_text(json.dumps(data, indent=3))
    (source / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    (source / "model.safetensors").write_text("not a tokenizer's file")
    _, notices = written(source, tmp_path / "out")
    assert notices == []
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2TokenizerFast", "Theirs", None])
def test_a_class_that_reads_its_own_word_split_is_replaced(source: Path, tmp_path: Path, name: str | None) -> None:
    """SmolLM's tokenizer is called GPT2Tokenizer, which transformers 5 splits as GPT-2's, digits and all."""
    data = json.loads((source / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": False},
            data["pre_tokenizer"],
        ],
    }
    (source / "tokenizer.json").write_text(json.dumps(data))
    change(source / "tokenizer_config.json", tokenizer_class=name, auto_map={"AutoTokenizer": ["theirs.Theirs", None]})
    config, notices = written(source, tmp_path / "out")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "auto_map" not in config and len(notices) == 2
    verify_tokenizer(tmp_path / "out", NUM_TOKENS)
    change(tmp_path / "out/tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(VerificationError, match=r"GPT2Tokenizer reads .*PreTrainedTokenizerFast"):
        verify_tokenizer(tmp_path / "out", NUM_TOKENS)


def test_a_token_that_only_the_config_names_is_left_out_and_said(source: Path, tmp_path: Path) -> None:
    """`tokenizer.pad_token = "<pad>"` and save_pretrained leave such a one, and a batch padded with it no embedding."""
    change(
        source / "tokenizer_config.json", eos_token={"__type": "AddedToken", "content": "<gone>"}, pad_token="<pad>",
        additional_special_tokens=["<s>", "<x>"],
        added_tokens_decoder={"0": {"content": "<s>"}, "131": {"content": "<pad>"}},
    )  # fmt: skip
    (source / "special_tokens_map.json").write_text('{"bos_token": "<s>", "pad_token": {"content": "<pad>"}}')
    config, notices = written(source, tmp_path / "out")
    assert "pad_token" not in config and (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")
    assert config["additional_special_tokens"] == ["<s>"] and config["added_tokens_decoder"] == {
        "0": {"content": "<s>"}
    }
    assert json.loads((tmp_path / "out/special_tokens_map.json").read_text()) == {"bos_token": "<s>"}
    assert "'<gone>', '<pad>', '<x>': named by tokenizer_config.json and left out" in notices[-1]
    verify_tokenizer(tmp_path / "out", NUM_TOKENS)
    change(tmp_path / "out/tokenizer_config.json", pad_token="<pad>")
    with pytest.raises(VerificationError, match=r"132 tokens .* 131 rows"):
        verify_tokenizer(tmp_path / "out", NUM_TOKENS)
    change(tmp_path / "out/tokenizer_config.json", pad_token=3)
    with pytest.raises(VerificationError, match="transformers cannot use its tokenizer"):
        verify_tokenizer(tmp_path / "out", NUM_TOKENS)


def test_a_merge_with_a_space_inside_stays_a_pair(source: Path, tmp_path: Path) -> None:
    data = json.loads((source / "tokenizer.json").read_text())
    first = next(token for token in data["model"]["vocab"] if len(token) == 1)
    data["model"]["vocab"] |= {" x": 131, f" x{first}": 132}
    data["model"]["merges"].append([" x", first])
    (source / "tokenizer.json").write_text(json.dumps(data))
    written(source, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_an_end_of_text_that_only_the_model_names_is_named_for_the_tokenizer_too(source: Path, tmp_path: Path) -> None:
    """lm-eval cannot generate with a tokenizer that names none."""
    (source / "tokenizer_config.json").write_text('{"bos_token": "</s>", "eos_token": null}')
    config, _ = written(source, tmp_path / "out")
    assert (config["bos_token"], config["eos_token"], config.get("pad_token")) == ("</s>", "</s>", None)


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_llamas_class_gives_way_to_the_one_that_reads_the_file(tmp_path: Path, name: str) -> None:
    """Transformers 4 adds <unk> where there is none, without a row; 5.23 leaves out the normalizer, 5.0 did not."""
    tokens = ["<unk>", "▁", "▁▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "▁")], byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    (tmp_path / "llama").mkdir()
    tokenizer.save(str(tmp_path / "llama/tokenizer.json"))
    (tmp_path / "llama/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "unk_token": "<unk>"}))
    if AutoTokenizer.from_pretrained(tmp_path / "llama").encode("  ") != tokenizer.encode("  ").ids:
        with pytest.raises(VerificationError, match="LlamaTokenizer reads ' "):
            verify_tokenizer(tmp_path / "llama", len(tokens))
    else:
        verify_tokenizer(tmp_path / "llama", len(tokens))
    config, _ = written(tmp_path / "llama", tmp_path / "out")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    verify_tokenizer(tmp_path / "out", len(tokens))


@pytest.mark.parametrize(
    ("named", "side"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, "left"),
        ({"tokenizer_class": "LlamaTokenizerFast", "padding_side": "right"}, "right"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
    ],
)
def test_what_llamas_class_does_unsaid_is_said(
    source: Path, tmp_path: Path, named: dict[str, str], side: str | None
) -> None:
    """It pads on the left, as generation in batches needs, and leaves what it decodes as it is."""
    change(source / "tokenizer_config.json", **named)
    config, _ = written(source, tmp_path / "out")
    assert config.get("padding_side") == side
    assert config.get("clean_up_tokenization_spaces") == (False if side else None)


def id_two(data: dict[str, Any]) -> str:
    return next(token for token, index in data["model"]["vocab"].items() if index == 2)


def test_a_model_whose_ids_are_ordinary_tokens_makes_none_of_them_special(source: Path, tmp_path: Path) -> None:
    """Ids that nobody set are 1 and 2, which is a quotation mark in many vocabularies: text would lose it."""
    (source / "tokenizer_config.json").write_text("{}")
    data = json.loads((source / "tokenizer.json").read_text())
    data["added_tokens"].append(data["added_tokens"][0] | {"id": 2, "content": id_two(data), "special": False})
    (source / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "out").mkdir()
    write_tokenizer(find_tokenizer(source), tmp_path / "out", replace(TINY, bos_token_id=2, eos_token_id=3))
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert "bos_token" not in config and "eos_token" not in config


def test_a_tokenizer_that_adds_tokens_around_a_text_reads_it_the_same(source: Path, tmp_path: Path) -> None:
    """As Llama 3's, which begins every text with a BOS token."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(source / "tokenizer.json"))
    written(source, tmp_path / "out")
    verify_tokenizer(tmp_path / "out", NUM_TOKENS)


def test_a_lone_file_gets_its_special_tokens_from_the_model(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").rename(tmp_path / "mine.json")
    config, _ = written(tmp_path / "mine.json", tmp_path / "out")
    assert (config["bos_token"], config["eos_token"], config["model_max_length"]) == ("<s>", "</s>", 256)
    assert find_tokenizer(tmp_path / "mine.json").num_tokens == NUM_TOKENS


def test_a_hub_id_is_found_in_the_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "hub/models--org--tokenizer"
    (repository / "snapshots").mkdir(parents=True)
    source.rename(repository / "snapshots/0123456789abcdef")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123456789abcdef")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_tokenizer("org/tokenizer").num_tokens == NUM_TOKENS
    with pytest.raises(MissingInputError, match="hf download"):
        find_tokenizer("org/another")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere.json", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(MissingInputError, match="no such file or folder"):
        find_tokenizer(name)


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match=r"tokenizer\.json"):
        find_tokenizer(tmp_path / "empty")
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match="not readable"):
        find_tokenizer(tmp_path / "tokenizer.json")
