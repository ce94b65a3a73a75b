"""A killed run leaves nothing behind that is lost or that grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints import recovery
from nanotron_zagreus.checkpoints.recovery import clear_leftovers, restore_replaced


def make(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "file").write_text(content)


def test_a_step_killed_between_the_two_renames_of_its_replacement_comes_back(tmp_path: Path) -> None:
    make(tmp_path / ".replaced-10", "old")
    make(tmp_path / ".saving-10", "new")
    assert restore_replaced(tmp_path) == [10]
    assert restore_replaced(tmp_path) == []
    clear_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["10"]
    assert (tmp_path / "10" / "file").read_text() == "old"


def test_clearing_alone_brings_a_step_back_and_flushes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[Path, bool]] = []
    monkeypatch.setattr(recovery, "sync_folder", lambda folder: flushed.append((folder, (folder / "10").exists())))
    make(tmp_path / ".replaced-10", "old")
    clear_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["10"]
    assert flushed == [(tmp_path, True)]


def test_a_step_that_was_replaced_stays_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / ".replaced-10", "old")
    make(tmp_path / "10", "new")
    assert restore_replaced(tmp_path) == []
    clear_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["10"]
    assert (tmp_path / "10" / "file").read_text() == "new"


def test_files_of_interrupted_replacements_and_launches_go_and_others_stay(tmp_path: Path) -> None:
    for name in (".latest.txt.4711", ".outcome.json.4711", ".probe-host-4711", ".node-ab-0", "latest.txt", ".mine"):
        (tmp_path / name).write_text("5")
    make(tmp_path / ".deleting-5", "old")
    links = (".saving-7", ".replaced-7", ".latest.txt.4712")
    for name in links:
        (tmp_path / name).symlink_to(tmp_path / "latest.txt" if name.startswith(".latest") else tmp_path)
    clear_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"latest.txt", ".mine", *links}


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    clear_leftovers(tmp_path / "nowhere")
    assert restore_replaced(tmp_path / "nowhere") == []
