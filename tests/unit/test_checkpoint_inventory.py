"""`zagreus checkpoints` takes a step's folder for what it is, wherever a folder of steps is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints.layout import write_latest
from nanotron_zagreus.cli.app import run
from tests.unit.test_checkpoint_manifest import make_checkpoint


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of the steps 5 and 10, the latest; the working folder is its parent."""
    monkeypatch.chdir(tmp_path)
    for step in (5, 10):
        make_checkpoint(tmp_path / "ck" / str(step), {"step": step})
    write_latest(tmp_path / "ck", 10)
    return Path("ck")


def listed(folder: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[int, bool, str]]:
    capsys.readouterr()
    assert run(["checkpoints", "list", folder, "--json"]) == 0
    return [(row["step"], row["latest"], row["state"]) for row in json.loads(capsys.readouterr().out)]


def test_one_step_is_listed_as_a_row_of_its_own(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed("ck", capsys) == [(5, False, "whole"), (10, True, "whole")]
    assert listed("ck/5", capsys) == [(5, False, "whole")]
    assert listed("ck/10/", capsys) == [(10, True, "whole")]
    (root / "5" / "model_config.json").unlink()
    ((step, _, state),) = listed("ck/5", capsys)
    assert step == 5 and "damaged" in state
    monkeypatch.chdir(root / "10")
    assert listed(".", capsys) == [(10, True, "whole")]


def test_a_checkpoint_without_a_step_is_no_folder_of_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "10").rename("imported")
    assert run(["checkpoints", "list", "imported"]) == 2
    error = capsys.readouterr().err
    assert "imported" in error and "one checkpoint" in error and "zagreus checkpoints verify imported" in error


def test_a_checkpoint_that_has_no_manifest_is_not_to_be_verified(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another Nanotron's, say: what is advised must not end in an error."""
    (root / "10").rename("imported")
    Path("imported/manifest.json").unlink()
    assert run(["checkpoints", "list", "imported"]) == 2
    error = capsys.readouterr().err
    assert "no manifest.json" in error and "zagreus convert" in error and "checkpoints verify" not in error
    assert run(["checkpoints", "verify", "imported"]) == 3
    captured = capsys.readouterr()
    assert "another Nanotron's has none" in captured.out and "damaged or without a manifest" in captured.err


def test_pruning_one_step_names_the_folder_to_prune(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoints", "prune", "ck/10", "--keep-last", "1", "--yes"]) == 2
    error = capsys.readouterr().err
    assert "ck/10" in error and "step 10" in error and "give ck" in error
    assert sorted(path.name for path in root.iterdir()) == ["10", "5", "latest.txt"]


def test_a_folder_without_steps_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoints", "list", str(tmp_path)]) == 0
    assert "no saved step" in capsys.readouterr().out


def test_verifying_reads_every_step_and_names_the_damaged_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoints", "verify", "ck"]) == 0
    printed = capsys.readouterr().out
    assert "ck/5: 4 files, sound" in printed and "ck/10: 4 files, sound" in printed
    (root / "5" / "model" / "a.safetensors").write_bytes(b"weighty")
    assert run(["checkpoints", "verify", "ck"]) == 3
    printed = capsys.readouterr()
    assert "ck/10: 4 files, sound" in printed.out and "1 damaged" in printed.err and "a.safetensors" in printed.err
    assert run(["checkpoints", "verify", "ck/10"]) == 0
    assert run(["checkpoints", "verify", "ck/5"]) == 3


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_where_nothing_is_saved_nothing_is_called_sound(
    folder: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert run(["checkpoints", "verify", folder]) == 2
    assert folder in capsys.readouterr().err


def test_pruning_deletes_what_it_said_it_would(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["checkpoints", "prune", "ck", "--keep-last", "1"]
    assert run(command) == 0
    assert "would delete ck/5" in capsys.readouterr().out
    assert sorted(path.name for path in root.iterdir()) == ["10", "5", "latest.txt"]
    assert run([*command, "--yes"]) == 0
    assert sorted(path.name for path in root.iterdir()) == ["10", "latest.txt"]
