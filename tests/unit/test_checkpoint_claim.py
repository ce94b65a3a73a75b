"""A checkpoints folder is one run's: claimed, waited for, refused, and free again whatever ended its run."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from nanotron_zagreus.checkpoints import claim
from nanotron_zagreus.checkpoints.claim import check_unclaimed, claimed
from nanotron_zagreus.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from typing import IO
from nanotron_zagreus.checkpoints.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_WAIT_SECONDS", 0.3)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(tmp_path):
        for second in (lambda: check_unclaimed(tmp_path), lambda: claimed(tmp_path).__enter__()):
            with pytest.raises(InputError, match=rf"process {os.getpid()} on .*since \d{{4}}-.*touch {tmp_path}/STOP"):
                second()
    said = capsys.readouterr().err
    assert "waiting for the run that writes there" in said and "no locks" not in said
    check_unclaimed(tmp_path)
    with claimed(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_free_and_stays_away(tmp_path: Path) -> None:
    check_unclaimed(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_ranks_that_look_at_the_same_moment_do_not_see_each_other(tmp_path: Path) -> None:
    with claimed(tmp_path):
        pass
    with (tmp_path / ".claim").open() as another_rank:
        fcntl.flock(another_rank, fcntl.LOCK_SH)
        check_unclaimed(tmp_path)


def test_a_run_that_is_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_WAIT_SECONDS", 60.0)
    first = claimed(tmp_path)
    first.__enter__()
    end = threading.Timer(0.5, first.__exit__, (None, None, None))
    end.start()
    check_unclaimed(tmp_path)
    end.join()


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on"):
            check_unclaimed(tmp_path)
        holder.send_signal(signal.SIGKILL)
    check_unclaimed(tmp_path)


def test_a_file_system_without_locks_is_told_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path):
        check_unclaimed(tmp_path)
    assert "no locks on this file system" in capsys.readouterr().err


def test_a_lock_that_an_earlier_start_of_the_same_job_left_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server may hold a dead node's lock for long; the requeued job knows that its last start is over."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    with claimed(tmp_path):
        monkeypatch.setenv("SLURM_JOB_ID", "4712")
        with pytest.raises(InputError, match=r"job 4711, since .* remove .*\.claim"):
            check_unclaimed(tmp_path)
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        check_unclaimed(tmp_path)
        with claimed(tmp_path):
            monkeypatch.setenv("SLURM_JOB_ID", "4712")
            with pytest.raises(InputError, match="job 4711"):
                check_unclaimed(tmp_path)


@pytest.mark.parametrize("restarts", [None, "2"])
def test_two_runs_in_one_start_of_a_job_do_not_take_each_others_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str | None
) -> None:
    """In an interactive allocation, every run that is started has the number of the same job."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    with claimed(tmp_path), pytest.raises(InputError, match="job 4711"):
        check_unclaimed(tmp_path)


def test_a_claim_that_only_its_owner_may_write_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that a group shares."""
    with claimed(tmp_path):
        pass
    opened = Path.open

    def open_as_another_user(path: Path, mode: str = "r", **options: str) -> IO[str]:
        if mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", open_as_another_user)
    with claimed(tmp_path), pytest.raises(InputError, match="is being written by another run"):
        check_unclaimed(tmp_path)
    assert "no locks" not in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_not_judged_here(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_unclaimed(tmp_path / "file")


def test_a_claim_on_a_full_disk_is_one_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with claimed(tmp_path), pytest.raises(InputError, match="process unknown on an unknown host"):
        check_unclaimed(tmp_path)
