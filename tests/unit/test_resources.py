"""A configuration is the user's own file, or a shipped one asked for by its name; never one for the other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.errors import MissingInputError
from nanotron_zagreus.resources import find_config, resource_folder

SHIPPED = resource_folder("configs") / "smollm2" / "zagreus_tiny.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["zagreus_tiny.yaml", "smollm2/zagreus_tiny.yaml"])
def test_a_shipped_file_answers_to_its_name(name: str, elsewhere: Path) -> None:
    assert find_config(name) == SHIPPED
    mine = elsewhere / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert find_config(name).resolve() == mine


@pytest.mark.parametrize(
    "path",
    [
        "my_runs/zagreus_tiny.yaml",
        "./zagreus_tiny.yaml",
        "../smollm2/zagreus_tiny.yaml",
        "configs/smollm2/zagreus_tiny.yaml",
        "smollm2/../smollm2/zagreus_tiny.yaml",
        "/zagreus_tiny.yaml",
    ],
)
def test_a_mistyped_path_is_not_taken_for_a_shipped_file(path: str) -> None:
    with pytest.raises(MissingInputError, match="does not exist") as caught:
        find_config(path)
    assert "smollm2/zagreus_tiny.yaml" in str(caught.value)


def test_each_kind_of_file_is_offered_its_own() -> None:
    with pytest.raises(MissingInputError) as config:
        find_config("nowhere.yaml")
    assert "zagreus_350M_por.yaml" in str(config.value) and "data_por" not in str(config.value)
    with pytest.raises(MissingInputError) as recipe:
        find_config("nowhere.yaml", kind="data")
    assert "data_por.yaml" in str(recipe.value) and "zagreus_350M" not in str(recipe.value)


def test_what_is_there_and_no_file_is_called_so(elsewhere: Path) -> None:
    with pytest.raises(MissingInputError, match="is a folder"):
        find_config(elsewhere)
    os.mkfifo("pipe")
    with pytest.raises(MissingInputError, match="no regular file"):
        find_config("pipe")


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config-file", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_check_names_the_file_that_it_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config-file", "zagreus_tiny.yaml"]) == 0
    assert str(SHIPPED) in capsys.readouterr().out
    assert run(["check", "--config-file", "zagreus_tiny.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config_file"] == str(SHIPPED)
