"""A checkpoint that cannot be gone on from is refused with the field and the ways out."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.training.resume_point import find_resume_point
from tests.integration.tiny_runs import tiny_config, write_config
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
