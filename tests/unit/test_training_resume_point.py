"""A checkpoint that cannot be gone on from is refused with the field and the ways out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.training.resume_point import find_resume_point, older_steps
from tests.integration.tiny_runs import tiny_config, write_config
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.data_fixtures import make_config, write_source
from tests.unit.test_checkpoint_layout import make_step
from tests.unit.test_checkpoint_manifest import make_checkpoint

FALLBACK = "zagreus.checkpoints.fallback_to_newest_sound: true"


def resuming(root: Path, wanted: str) -> Config:
    config = tiny_config(root, checkpoints__checkpoints_path=str(root / "ck"))
    config["checkpoints"]["resume_checkpoint_path"] = wanted
    return load_config(write_config(root / "run.yaml", config))


def refusal(root: Path, wanted: str = "auto") -> str:
    with pytest.raises((InputError, VerificationError)) as caught:
        find_resume_point(resuming(root, wanted))
    text = str(caught.value)
    assert text.count("checkpoints.resume_checkpoint_path: ") == 1 + text.count("path: null"), text
    assert text.startswith("checkpoints.resume_checkpoint_path: ")
    return text


def test_a_newest_step_that_is_not_whole_names_the_fallback(tmp_path: Path) -> None:
    make_step(tmp_path / "ck", 5)
    layout.write_latest(tmp_path / "ck", 10)
    text = refusal(tmp_path)
    assert "names step 10" in text and FALLBACK in text and "estore its files" in text


def test_a_newest_step_that_is_gone_with_all_others_is_not_promised_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "ck").mkdir()
    layout.write_latest(tmp_path / "ck", 10)
    text = refusal(tmp_path)
    assert "start anew" in text and FALLBACK not in text


def test_a_missing_manifest_names_the_fallback(tmp_path: Path) -> None:
    make_step(tmp_path / "ck", 5)
    make_step(tmp_path / "ck", 10)
    layout.write_latest(tmp_path / "ck", 10)
    text = refusal(tmp_path)
    assert "manifest.json" in text and FALLBACK in text


def test_damage_names_the_fallback_only_where_an_older_step_is(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "ck" / "10")
    (folder / "model_config.json").write_text("{}")
    (folder / "manifest.json").write_text("{")
    layout.write_latest(tmp_path / "ck", 10)
    text = refusal(tmp_path)
    assert "damaged" in text and FALLBACK not in text and "start anew" in text
    make_step(tmp_path / "ck", 5)
    assert FALLBACK in refusal(tmp_path)
    assert FALLBACK in refusal(tmp_path, str(folder))


@pytest.mark.parametrize("wanted", ["Auto", "nowhere", "/nowhere/10"])
def test_what_is_no_folder_is_told_what_is_expected(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(tmp_path, wanted)
    assert f"got {wanted}, which does not exist" in text and "auto" in text and "null" in text
    assert FALLBACK not in text and "estore" not in text


def test_a_step_without_its_model_config_is_no_folder_of_steps(tmp_path: Path) -> None:
    folder = make_step(tmp_path / "ck", 10)
    (folder / "model_config.json").rename(folder / "manifest.json")
    text = refusal(tmp_path, str(folder))
    assert "model_config.json" in text and "ever saved" not in text


def test_a_hugging_face_folder_is_named_with_the_command_that_imports_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(MissingInputError, match=r"Hugging Face folder.*zagreus import"):
        layout.resolve_checkpoint(tmp_path)


def test_a_named_step_that_is_not_whole_says_what_can_be_done_where_no_other_is(tmp_path: Path) -> None:
    text = refusal(tmp_path, str(make_step(tmp_path / "ck", 10)))
    assert "estore its files" in text and "start anew" in text and FALLBACK not in text


def test_without_latest_all_steps_are_older_and_a_step_has_those_before_it(tmp_path: Path) -> None:
    for step in (5, 10, 20):
        make_step(tmp_path / "ck", step)
    assert older_steps(resuming(tmp_path, "auto")) == (tmp_path / "ck", [5, 10, 20])
    assert older_steps(resuming(tmp_path, str(tmp_path / "ck" / "10"))) == (tmp_path / "ck", [5])
    layout.write_latest(tmp_path / "ck", 20)
    assert older_steps(resuming(tmp_path, "auto")) == (tmp_path / "ck", [5, 10])


@pytest.fixture
def saved(tmp_path: Path) -> Config:
    """Return the configuration of a run of 20 steps that saved step 10, and that goes on from it."""
    dataset = {"dataset_folder": str(write_source(tmp_path / "a", [10, 10]))}
    paths = {"checkpoints_path": str(tmp_path / "ck"), "resume_checkpoint_path": "auto"}
    config = make_config([{"dataset": dataset}], checkpoints=paths)
    write_descriptions(config, 10)
    return config


def replaced(config: Any, *path: str, value: Any) -> Any:
    """Return a copy of frozen sections with the value at ``path`` replaced."""
    first, *rest = path
    return dataclasses.replace(
        config, **{first: replaced(getattr(config, first), *rest, value=value) if rest else value}
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.model_config.hidden_size", 32),
        ("model.model_config.intermediate_size", 64),
        ("model.model_config.num_hidden_layers", 2),
        ("model.model_config.num_attention_heads", 4),
        ("model.model_config.num_key_value_heads", 2),
        ("model.model_config.vocab_size", 1024),
        ("model.model_config.rms_norm_eps", 1e-3),
        ("model.model_config.rope_theta", 5e5),
        ("model.model_config.tie_word_embeddings", True),
        ("model.dtype", "bfloat16"),
        ("tokens.sequence_length", 16),
        ("tokens.train_steps", 9),
    ],
)
def test_a_checkpoint_of_another_model_or_length_is_refused(saved: Config, path: str, value: Any) -> None:
    point = find_resume_point(saved)
    assert point is not None and (point.step, point.consumed_samples) == (10, 40)
    with pytest.raises(InputError, match=rf"{path}: got {value}, but .*trained"):
        find_resume_point(replaced(saved, *path.split("."), value=value))


@pytest.mark.parametrize("fact", ["step", "consumed_samples"])
def test_a_manifest_that_counts_otherwise_than_the_engine_s_metadata_is_damage(saved: Config, fact: str) -> None:
    folder = saved.checkpoints.checkpoints_path / "10"
    facts = manifest.read_manifest(folder)
    records = [manifest.FileRecord(**record) for record in facts.pop("files")]
    del facts["sha256"], facts["format"]
    manifest.write_manifest(folder, records, {**facts, fact: facts[fact] + 1})
    with pytest.raises(VerificationError, match=f"says {fact} {facts[fact] + 1}"):
        find_resume_point(saved)
