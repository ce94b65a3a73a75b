"""Checkpoints become folders that can be evaluated: with which tokenizer, where, and when they are made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanotron_zagreus.conversion import to_hf
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.evaluation import model_folders
from nanotron_zagreus.evaluation.batching import choose_batch_size
from nanotron_zagreus.evaluation.model_folders import checkpoint_tokenizer, forget_converted, hf_folder
from nanotron_zagreus.evaluation.subjects import Subject, find_subjects
from tests.unit.test_evaluation_inputs import checkpoint, folder_of


@pytest.mark.parametrize("label", ["..", ".", "../x", "a/b", ""])
def test_converted_copies_stay_in_their_folder(tmp_path: Path, label: str) -> None:
    subject = Subject(label=label, source="5000", kind="checkpoint", path=checkpoint(tmp_path / "5000", 5000, 1))
    kept = folder_of(tmp_path / "out" / "x", zagreus_source__json={})
    for use in (lambda: hf_folder(subject, kept.parent / ".converted", "t"), lambda: forget_converted(subject, kept)):
        with pytest.raises(AssertionError):
            use()
    assert (kept / "zagreus_source.json").is_file()


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"fingerprint": 1}'])
def test_a_copy_whose_record_was_cut_off_is_made_again(
    tmp_path: Path, record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(label="5", source="5", kind="checkpoint", path=checkpoint(tmp_path / "5", 5, 1))
    copy = folder_of(tmp_path / ".converted" / "5", zagreus_source__json={})
    (copy / "zagreus_source.json").write_text(record)
    made: list[Path] = []
    monkeypatch.setattr(model_folders, "subject_fingerprint", lambda *_: "fingerprint")
    monkeypatch.setattr(to_hf, "convert_checkpoint", lambda _, out, __: made.append(out) or out.mkdir())
    assert hf_folder(subject, copy.parent, "t") == hf_folder(subject, copy.parent, "t") == copy
    assert made == [copy]


def test_models_of_the_hub_tell_their_steps_by_record_or_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"step": 5000, "training": {"tokens_trained": 640_000}}
    recorded = folder_of(tmp_path / "4e20de36", config__json={}, conversion__json=record)
    plain = folder_of(tmp_path / "153000", config__json={})  # a commit, which happens to be a number
    monkeypatch.setattr(model_folders, "_fetch", lambda source: recorded if source == "a/b" else plain)
    sources = ["a/b", "a/c", "a/c@step70-tokens2.56K", "a/c@all/step80", "a/c@refs/pr/12", "a/90"]
    found = model_folders.fetch_hub_models(find_subjects(sources))
    assert [(model.path, model.step, model.tokens) for model in found] == [
        (recorded, 5000, 640_000), *((plain, step, None) for step in (None, 70, 80, None, 90))
    ]  # fmt: skip


def test_a_checkpoint_without_tokenizer_asks_for_one(tmp_path: Path) -> None:
    named = checkpoint(tmp_path / "5", 5, 5)
    assert checkpoint_tokenizer(named, None) == "meta-llama/Llama-3.2-1B"
    assert checkpoint_tokenizer(named, "/own") == "/own"
    (named / "config.yaml").write_text("tokens: {}\n", encoding="utf-8")
    with pytest.raises(InputError, match="--tokenizer"):
        checkpoint_tokenizer(named, None)


@pytest.mark.parametrize("text", [b"tokens: {sequence_length: [", b"- a", b"tokens: 3\ntokenizer: x", b"\xff\xfe", b""])
def test_a_configuration_that_cannot_be_read_is_as_none(tmp_path: Path, text: bytes) -> None:
    """It must not end the evaluation, or the watch, of all checkpoints beside it."""
    damaged = checkpoint(tmp_path / "ck" / "5", 5, 5)
    (damaged / "config.yaml").write_bytes(text)
    (found,) = find_subjects([str(tmp_path / "ck")])
    assert (found.step, found.tokens) == (5, None)
    with pytest.raises(InputError, match=r"ck/5.*--tokenizer"):
        checkpoint_tokenizer(damaged, None)


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        choose_batch_size("auto", "cpu", tmp_path)
