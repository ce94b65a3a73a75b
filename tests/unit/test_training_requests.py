"""What asks a run to save or to stop: files, signals, and the launcher's word for a signal; and the reason it gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("age", ["older", "newer"])
def test_a_request_older_than_the_run_is_removed_and_reported_and_a_newer_one_carried_out(
    age: str, engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.engine.launch import launch_started_at
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    (tmp_path / "STOP").touch()
    if age == "older":
        long_ago = launch_started_at() - 60
        os.utime(tmp_path / "STOP", (long_ago, long_ago))
    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    control.clear_stale_files()
    assert ("older than this run, removed" in capsys.readouterr().err) == (age == "older")
    assert control.agree()[0] == (Request.NONE if age == "older" else Request.STOP)


def test_a_request_made_while_torchrun_waited_for_its_nodes_is_carried_out(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    (tmp_path / "STOP").touch()
    rank = "import sys; from nanotron_zagreus.engine.launch import launch_started_at as at; print(at())"
    time.sleep(0.05)  # the system counts in hundredths of a second
    started = subprocess.run(
        [sys.executable, "-c", rank], env=os.environ | {"TORCHELASTIC_RUN_ID": "x"}, capture_output=True, check=True
    )
    monkeypatch.setattr("nanotron_zagreus.engine.launch.launch_started_at", lambda: float(started.stdout))
    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    control.clear_stale_files()
    assert control.agree()[0] is Request.STOP


def test_the_reason_of_a_stop_is_not_that_of_an_earlier_save(engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    (tmp_path / "SAVE").touch()
    assert control.agree()[0] is Request.SAVE
    control.clear_files()
    assert control.agree()[0] is Request.NONE
    assert control.shared_reason() == ""


def test_a_folder_out_of_reach_for_a_moment_ends_no_run(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    def refuse(path: Path, **options: Any) -> Any:
        raise OSError(116, "Stale file handle", str(path))

    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    (tmp_path / "STOP").touch()
    with monkeypatch.context() as outage:
        outage.setattr(Path, "stat", refuse)
        outage.setattr(Path, "unlink", refuse)
        assert [control.agree()[0] for _ in range(2)] == [Request.NONE, Request.NONE]
        control.clear_files("SAVE")
    assert control.agree()[0] is Request.STOP
    assert capsys.readouterr().err.count("Stale file handle") == 1


def test_a_request_that_cannot_be_removed_is_carried_out_once(engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    (tmp_path / "SAVE").mkdir()  # unlink refuses folders, even to root
    (tmp_path / "STOP").mkdir()
    os.utime(tmp_path / "STOP", (0, 0))
    control.clear_stale_files()
    assert control.agree()[0] is Request.SAVE
    control.clear_files("SAVE")
    assert [control.agree()[0] for _ in range(2)] == [Request.NONE, Request.NONE]
    (tmp_path / "SAVE").rmdir()
    assert control.agree()[0] is Request.NONE
    (tmp_path / "SAVE").touch()
    assert control.agree()[0] is Request.SAVE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_reason_of_a_stop_is_the_signal_that_the_launcher_got(
    number: signal.Signals, engine: Any, tmp_path: Path
) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests
    from nanotron_zagreus.training.stop_requests import StopRequests

    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    with StopRequests(tmp_path) as requests:
        signal.raise_signal(number)
        requests.pass_on()
        requests.pass_on()
        assert control.agree()[0] is Request.STOP
        assert control.reason == f"{number.name} to zagreus train"
        assert [path.name for path in tmp_path.iterdir()] == ["STOP"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "SIGTERM", "tired\n", "\xff" * 100])
def test_the_reason_of_a_stop_is_the_file_that_somebody_made(text: str, engine: Any, tmp_path: Path) -> None:
    from nanotron_zagreus.training.control import Request, StepControl
    from nanotron_zagreus.training.signals import SignalRequests

    (tmp_path / "STOP").write_text(text, encoding="latin-1")
    control = StepControl(tmp_path, SignalRequests(), looks_at_files=True)
    assert control.agree()[0] is Request.STOP
    assert control.reason == f"file {tmp_path / 'STOP'}"


def test_a_disk_that_takes_no_bytes_still_takes_a_stop(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import stop_requests

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stop_requests, "replace_durably", full)
    with stop_requests.StopRequests(tmp_path) as requests:
        signal.raise_signal(signal.SIGTERM)
        requests.pass_on()
        assert (tmp_path / "STOP").exists()


def test_only_a_signal_that_comes_later_ends_the_launcher_s_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import stop_requests

    now, before = [100.0], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(stop_requests.time, "monotonic", lambda: now[0])
    with stop_requests.StopRequests(tmp_path) as requests:
        requests.pass_on()
        assert not list(tmp_path.iterdir()), "nobody has asked"
        for now[0], ends in ((100.0, False), (102.9, False), (103.1, True), (109.0, True)):
            signal.raise_signal(signal.SIGTERM)
            assert requests.must_end_now == ends
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_out_of_reach_does_not_end_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanotron_zagreus.training.stop_requests import StopRequests

    def refuse(path: Path, **options: Any) -> Any:
        raise OSError(116, "Stale file handle", str(path))

    with StopRequests(tmp_path) as requests:
        signal.raise_signal(signal.SIGTERM)
        requests.pass_on()
        for call in ("stat", "touch", "unlink"):
            monkeypatch.setattr(Path, call, refuse)
        requests.pass_on()
    assert not requests.must_end_now


def test_signals_become_one_request_and_handlers_are_restored(engine: Any) -> None:
    from nanotron_zagreus.training.signals import SignalRequests

    before = signal.getsignal(signal.SIGUSR1)
    with SignalRequests() as requests:
        assert requests.received is None
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)  # within the same moment: the same request again
    assert requests.received == "SIGUSR1"  # leaving waits until everything that came is heard
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize("under_nohup", [False, True])
def test_a_terminal_that_closed_is_a_request_too_unless_nohup_has_set_its_signal_aside(
    under_nohup: bool, engine: Any
) -> None:
    """torchrun passes SIGHUP on to its ranks, and kills them half a minute later; under nohup it does so, too."""
    from nanotron_zagreus.training.signals import SignalRequests

    handler = signal.SIG_IGN if under_nohup else signal.SIG_DFL
    previous = signal.signal(signal.SIGHUP, handler)
    try:
        with SignalRequests() as requests:
            signal.raise_signal(signal.SIGHUP)
        assert requests.received == (None if under_nohup else "SIGHUP")
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, previous)
