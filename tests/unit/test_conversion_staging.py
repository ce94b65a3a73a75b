"""A staged folder appears whole or not at all, however the work ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanotron_zagreus.conversion.staging import check_destination, check_space, sigterm_raised, staged_folder
from nanotron_zagreus.errors import InputError


def test_sigterm_leaves_nothing_behind_and_the_process_ends_as_terminated(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nanotron_zagreus.conversion.staging import staged_folder\n"
        "with staged_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'x').write_text('x'); print('staging', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "staging\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_the_handler_of_sigterm_is_restored_and_another_s_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), staged_folder(tmp_path / "out"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with sigterm_raised():
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_leftovers_of_dead_processes_of_this_host_go_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "gone": f".before.unfinished-{host}-{dead.pid}",
        "living": f".before.unfinished-{host}-{os.getppid()}",
        "old": ".before.unfinished-elsewhere-7",
        "new": ".before.unfinished-elsewhere-8",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
    yesterday = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / names["old"], (yesterday, yesterday))
    with staged_folder(tmp_path / "out"):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names["living"], names["old"], names["new"], "out"}
    assert [names["old"] in record.getMessage() for record in caplog.records] == [True]


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk/place").mkdir(parents=True)
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "disk/place")
    with staged_folder(link) as folder:
        assert folder.parent == tmp_path / "disk"
        (folder / "x").write_text("x")
    assert link.is_symlink() and (link / "x").read_text() == "x"
    with pytest.raises(InputError, match="not empty"):
        check_destination(link)


def test_a_disk_with_too_little_room_is_refused_and_missing_folders_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=1000))  # type: ignore[func-returns-value]
    check_space(tmp_path / "a/b/out", 1000)
    with pytest.raises(InputError, match="1,000 bytes free, 1,001 are needed"):
        check_space(tmp_path / "a/b/out", 1001)
    assert asked == [tmp_path, tmp_path]
    with staged_folder(tmp_path / "a/b/out") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "a/b/out/x").read_text() == "x"


def test_all_is_flushed_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, flush = tmp_path / "out", os.fsync
    flushed: set[int] = set()

    def note(descriptor: int) -> None:
        assert not out.exists()
        flushed.add(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with staged_folder(out) as folder:
        (folder / "part").mkdir()
        (folder / "part/x").write_text("x")
    assert flushed == {path.stat().st_ino for path in (out, out / "part", out / "part/x")}
