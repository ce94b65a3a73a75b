"""Names inside a checkpoints folder; nothing read from disk is trusted as a path."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanotron_zagreus.checkpoints import layout
from nanotron_zagreus.conversion.staging import staged_folder
from nanotron_zagreus.errors import InputError, MissingInputError


def make_step(root: Path, step: int) -> Path:
    folder = root / str(step)
    folder.mkdir(parents=True)
    (folder / "model_config.json").write_text("{}")
    return folder


def test_latest_resolves_to_the_step_it_names(tmp_path: Path) -> None:
    make_step(tmp_path, 5)
    folder = make_step(tmp_path, 10)
    layout.write_latest(tmp_path, 10)
    assert layout.resolve_checkpoint(tmp_path) == folder
    assert layout.resolve_checkpoint(tmp_path / "5") == tmp_path / "5"
    assert not list(tmp_path.glob(".latest*"))


def test_steps_are_listed_in_order_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        make_step(tmp_path, step)
    (tmp_path / ".saving-7").mkdir()
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "9").symlink_to(tmp_path / "3")
    assert layout.list_steps(tmp_path) == [3, 20, 100]


@pytest.mark.parametrize("text", ["../../etc", "/etc", "5\n6", "", "-1", "0x10", "٣", "5" * 100, "step 5"])
def test_a_latest_file_that_is_no_step_number_is_refused(text: str, tmp_path: Path) -> None:
    make_step(tmp_path, 5)
    (tmp_path / "latest.txt").write_text(text)
    with pytest.raises(InputError, match=r"latest\.txt"):
        layout.resolve_checkpoint(tmp_path)


def test_a_linked_latest_file_is_refused(tmp_path: Path) -> None:
    make_step(tmp_path, 5)
    (tmp_path / "elsewhere").write_text("5")
    (tmp_path / "latest.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        layout.read_latest(tmp_path)


def test_a_linked_step_folder_is_refused(tmp_path: Path) -> None:
    outside = make_step(tmp_path / "outside", 5)
    root = tmp_path / "root"
    root.mkdir()
    (root / "5").symlink_to(outside)
    layout.write_latest(root, 5)
    with pytest.raises(MissingInputError):
        layout.resolve_checkpoint(root)


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        layout.resolve_checkpoint(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="no step was ever saved"):
        layout.resolve_checkpoint(tmp_path)


def test_latest_naming_a_missing_step_lists_those_that_are_there(tmp_path: Path) -> None:
    make_step(tmp_path, 5)
    layout.write_latest(tmp_path, 10)
    with pytest.raises(MissingInputError, match=r"\[5\]"):
        layout.resolve_checkpoint(tmp_path)


def test_ranks_with_one_process_number_on_two_nodes_replace_a_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers, whose numbers start anew."""
    nodes, flush = ["b", "a"], os.fsync

    def flush_while_the_other_writes(descriptor: int) -> None:
        flush(descriptor)
        if nodes:
            layout.replace_durably(tmp_path / "outcome.json", b"b's")

    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=nodes.pop()))
    monkeypatch.setattr(os, "fsync", flush_while_the_other_writes)
    layout.replace_durably(tmp_path / "outcome.json", b"a's")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("outcome.json", b"a's")]


def test_a_file_is_whole_on_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flush = tmp_path / "latest.txt", os.fsync
    flushed: list[tuple[int, bytes | None]] = []
    descriptors: list[int] = []

    def note(descriptor: int) -> None:
        flush(descriptor)
        descriptors.append(descriptor)
        flushed.append((os.fstat(descriptor).st_ino, path.read_bytes() if path.exists() else None))
        if not path.exists():
            assert os.fstat(descriptor).st_size == len(b"20")

    monkeypatch.setattr(os, "fsync", note)
    layout.write_latest(tmp_path, 20)
    assert flushed == [(path.stat().st_ino, None), (tmp_path.stat().st_ino, b"20")]
    for descriptor in descriptors:
        with pytest.raises(OSError):
            os.fstat(descriptor)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flush, refused = os.fsync, OSError(number, "not for a folder")

    def for_files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise refused
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", for_files_alone)
    layout.write_latest(tmp_path, 20)
    with staged_folder(tmp_path / "hf") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "latest.txt").read_text() == "20" and (tmp_path / "hf/x").exists()
    refused.errno = errno.EIO
    with pytest.raises(OSError):
        layout.sync_folder(tmp_path)
