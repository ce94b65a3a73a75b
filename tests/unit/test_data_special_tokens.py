"""A run whose folders end their documents differently is told which do and which do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import dump_config
from nanotron_zagreus.data.special_tokens import mixed_special_tokens
from nanotron_zagreus.training.preflight import check_before_start
from tests.unit.data_fixtures import make_config, write_source


def write_record(folder: Path, **tokens: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenization.json").write_text(json.dumps({"tokenizer": "test-tokenizer", **tokens}))
    return folder


def test_folders_with_and_without_eos_are_named(tmp_path: Path) -> None:
    with_eos = write_record(tmp_path / "with", bos_token="<s>", eos_token="</s>")
    without = [write_record(tmp_path / name, bos_token="<s>", eos_token=None) for name in "abcde"]
    (notice,) = mixed_special_tokens([with_eos, *without])
    assert f"'</s>' ends documents in {with_eos}" in notice
    assert f"nothing in {without[0]}, {without[1]}" in notice and "and 2 more" in notice
    assert mixed_special_tokens(without) == []


def test_two_kinds_of_beginning_are_told_too(tmp_path: Path) -> None:
    first = write_record(tmp_path / "a", bos_token="<s>", eos_token=None)
    second = write_record(tmp_path / "b", bos_token="<t>", eos_token=None)
    (notice,) = mixed_special_tokens([first, second])
    assert "'<s>' begins documents in" in notice and "but '<t>' in" in notice


def test_folders_that_say_nothing_are_not_judged(tmp_path: Path) -> None:
    with_eos = write_record(tmp_path / "a", bos_token="<s>", eos_token="</s>")
    silent = write_record(tmp_path / "b")
    (tmp_path / "c").mkdir()
    assert mixed_special_tokens([with_eos, silent, tmp_path / "c", tmp_path / "missing"]) == []


def test_check_and_the_start_of_training_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, eos in (("a", None), ("b", "</s>")):
        write_record(write_source(tmp_path / name, [10]), bos_token="<s>", eos_token=eos)
    stages = [
        {"name": name, "start": start, "dataset": {"dataset_folder": name}} for name, start in (("a", 1), ("b", 11))
    ]
    config = make_config(stages)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert run(["check", "--config-file", "run.yaml"]) == 0
    assert "'</s>' ends documents in b" in capsys.readouterr().out
    (notice,) = check_before_start(config, 1).notices
    assert "nothing in a" in notice
