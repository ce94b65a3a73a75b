"""A file of lines ends no run, whatever its disk does, and no line is lost to one that was cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanotron_zagreus.training import line_file
from nanotron_zagreus.training.line_file import LineFile


def test_lines_that_the_disk_refuses_are_left_out_whole_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LineFile(tmp_path / "metrics.jsonl")
    lines.append("first")
    write = line_file.os.write
    monkeypatch.setattr(line_file.os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    lines.append("second")
    lines.append("third")
    monkeypatch.undo()
    lines.append("fourth")
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "first\nfourth\n"
    assert capsys.readouterr().err.count("lines are left out") == 1


def test_a_line_that_was_cut_off_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iterat')
    for line in ("second", "third"):
        lines = LineFile(path)
        lines.append(line)
        lines.close()
    assert path.read_text().splitlines() == ['{"iteration": 1}', '{"iterat', "second", "third"]


def test_a_file_that_cannot_be_opened_is_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    lines = LineFile(tmp_path / "metrics.jsonl")
    lines.append("first")
    lines.close()
    assert capsys.readouterr().err.count("lines are left out") == 1


def test_a_file_that_its_file_system_has_lost_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LineFile(tmp_path / "metrics.jsonl")
    assert lines._descriptor is not None
    os.close(lines._descriptor)  # every call is refused from here on, as with a stale handle of a network share
    lines.append("first")
    lines.close()
    assert capsys.readouterr().err.count("lines are left out (") == 1
