"""Signals and files that stop a run, and what is left afterwards. CPU, gloo, at most two ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from long_runs import kill_everything, ranks_of, start, wait_for_step
from tiny_runs import (
    DP2,
    launch,
    tiny_config,
    write_config,
)

from nanotron_zagreus.checkpoints import claim, layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.training.signals import SECOND_SIGNAL_SECONDS

pytestmark = pytest.mark.integration


def test_a_signal_to_one_rank_makes_all_save_the_same_step(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    root, process = long_run
    os.kill(ranks_of(process)[1], signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "stopped"
    assert outcome.reason == "SIGUSR1 on rank 1"
    assert layout.list_steps(root) == [outcome.step]
    assert manifest.verify(root / str(outcome.step))


def test_save_and_stop_files_are_carried_out_and_removed(
    long_run: tuple[Path, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, process = long_run
    (root / "SAVE").touch()
    deadline = time.monotonic() + 30
    while (root / "SAVE").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None
    monkeypatch.setattr(claim, "_WAIT_SECONDS", 0.0)
    with pytest.raises(InputError, match="is being written by another run"):
        claim.check_unclaimed(root)
    saved_step = layout.read_latest(root)
    (root / "STOP").touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "stopped"
    assert layout.list_steps(root) == [saved_step, outcome.step]
    assert (
        f"zagreus: stopped at step {outcome.step} (file {root}/STOP); newest checkpoint: {root}/{outcome.step}"
        in output
    )
    claim.check_unclaimed(root)
    assert not (root / "STOP").exists()


def test_sigterm_to_torchrun_saves_and_stops(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    root, process = long_run
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "stopped"
    assert "SIGTERM" in outcome.reason
    assert manifest.verify(root / str(outcome.step))


def test_a_save_longer_than_torchruns_grace_loses_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    root, flag = tmp_path / "checkpoints", tmp_path / "slow"
    overrides = {"tokens__train_steps": 100_000, "checkpoints__checkpoint_interval": 50_000}
    config = tiny_config(tmp_path, **DP2, **overrides, checkpoints__resume_checkpoint_path="auto")
    process = start(f"slow-save:{flag}:{write_config(tmp_path / 'run.yaml', config)}", 2)
    try:
        wait_for_step(root, 8, process)  # the second stage has begun, and so may the steps after the save
        (root / "SAVE").touch()
        while (saved_step := layout.read_latest(root)) is None:  # it moves after the folder has its name
            assert process.poll() is None
            time.sleep(0.05)
        flag.touch()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=90)  # torchrun kills its ranks 30 s after it was told to end
    finally:
        kill_everything(process)
    assert process.returncode != 0
    assert layout.list_steps(root) == [saved_step] and layout.read_latest(root) == saved_step
    assert manifest.verify(root / str(saved_step))
    config["tokens"]["train_steps"] = saved_step + 2
    launch([write_config(tmp_path / "again.yaml", config)], num_processes=2)
    outcome = read_outcome(root)
    assert outcome is not None and (outcome.why, outcome.step) == ("finished", saved_step + 2)
    assert not [entry for entry in root.iterdir() if entry.name.startswith(".saving")]


def test_a_second_signal_aborts_at_once(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    root, process = long_run
    ranks = ranks_of(process)
    os.kill(ranks[0], signal.SIGSTOP)
    time.sleep(0.5)  # the other rank now waits in a collective, outside Python
    os.kill(ranks[1], signal.SIGUSR1)
    time.sleep(SECOND_SIGNAL_SECONDS + 1.0)
    os.kill(ranks[1], signal.SIGUSR1)
    os.kill(ranks[0], signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert "leaving without saving" in output
    assert process.returncode != 0
    assert layout.list_steps(root) == []
