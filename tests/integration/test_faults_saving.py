"""A save that is killed, delayed or finds no room, and what is kept. CPU, gloo, at most two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import (
    launch,
    launch_environment,
    tiny_config,
    write_config,
)

from nanotron_zagreus.checkpoints import inventory, layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.config import load_config

pytestmark = pytest.mark.integration


def test_a_save_killed_at_its_write_points_leaves_whole_checkpoints_only(saved: Path, tmp_path: Path) -> None:
    overrides = {
        "checkpoints__resume_checkpoint_path": str(saved / "plain" / "5"),
        "checkpoints__checkpoints_path": str(tmp_path / "run"),
        "zagreus__checkpoints": {"background": False},
    }
    first = tiny_config(saved, **overrides)
    launch([f"resave:{write_config(tmp_path / 'first.yaml', first)}"], num_processes=1)
    second = tiny_config(saved, **{**overrides, "checkpoints__resume_checkpoint_path": str(tmp_path / "run" / "5")})
    launch([f"kill-points:{write_config(tmp_path / 'second.yaml', second)}"], num_processes=1)
    # Every file is made, flushed, and its folder too; the manifest, the rename and latest.txt come after, in the order
    # that `kill_points.check_what_was_flushed` holds them to.
    points = json.loads((tmp_path / "run" / "points").read_text())
    assert len(points["first"]) > 15
    assert len(points["again"]) > len(points["beside"])  # the old step is set aside, then deleted
    assert len(points["pruning"]) > len(points["beside"])


def test_saving_in_the_background_changes_no_byte(saved: Path) -> None:
    records = {
        name: {r["path"]: r["sha256"] for r in manifest.read_manifest(saved / name / "10")["files"]}
        for name in ("plain", "foreground")
    }
    del records["plain"]["config.yaml"], records["foreground"]["config.yaml"]
    assert records["plain"] == records["foreground"]


def test_old_checkpoints_go_and_the_kept_ones_stay(saved: Path) -> None:
    assert layout.list_steps(saved / "keep") == [4, 8, 11, 12]
    assert layout.read_latest(saved / "keep") == 12


def test_initial_and_final_states_are_saved_when_asked(saved: Path) -> None:
    assert layout.list_steps(saved / "final") == [0, 5, 10, 12]
    assert layout.list_steps(saved / "plain") == [5, 10]


def test_a_finished_run_says_so(saved: Path) -> None:
    outcome = read_outcome(saved / "plain")
    assert outcome is not None
    assert (outcome.why, outcome.step, outcome.checkpoint) == ("finished", 12, str(saved / "plain" / "10"))


def test_a_disk_without_room_for_even_the_outcome_hides_no_reason_and_harms_no_checkpoint(
    saved: Path, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: unshare -m needs root")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    data = tiny_config(saved, checkpoints__checkpoints_path=str(disk), checkpoints__resume_checkpoint_path="auto")
    data["tokens"]["train_steps"] = data["checkpoints"]["checkpoint_interval"] = 40
    file = write_config(tmp_path / "run.yaml", data)
    # One page stays free; lines of metrics.jsonl take it, and the rest of the 30 finds none.
    script = f"""
        mount -t tmpfs -o size=2m tmpfs {disk} && cp -r {saved}/plain/. {disk} || exit 99
        head -c $((8192 - 100)) /dev/zero | tr '\\0' ' ' > {disk}/metrics.jsonl
        head -c 10m /dev/zero > {disk}/fill 2> /dev/null
        truncate -s -4096 {disk}/fill
        {sys.executable} -m nanotron_zagreus.training --config-file {file}
        code=$?; rm {disk}/fill; cp -r {disk} {kept}; exit $code
    """
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script], env=launch_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode == 99:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr}")
    assert done.returncode == 1, done.stderr
    assert "earlier checkpoints are untouched: rank 0: OSError: [Errno 28]" in done.stderr
    assert "the outcome (failed) cannot be written" in done.stderr
    assert done.stderr.count("lines are left out") == 1
    assert "Traceback" not in done.stderr
    assert layout.list_steps(kept) == [5, 10] and layout.read_latest(kept) == 10
    assert manifest.verify(kept / "5") and manifest.verify(kept / "10")
    assert not [entry.name for entry in kept.iterdir() if entry.name.startswith(".saving")]


def test_a_full_disk_ends_the_run_and_harms_no_checkpoint(saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    subprocess.run(["cp", "-r", str(saved / "plain"), str(root)], check=True)
    before = {r["path"]: r["sha256"] for r in manifest.read_manifest(root / "10")["files"]}
    largest = max(r["bytes"] for r in manifest.read_manifest(root / "10")["files"])
    config = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path="auto")
    config["tokens"]["train_steps"] = 20
    file = write_config(tmp_path / "full.yaml", config)
    done = launch([f"file-limit:{largest - 100}:{file}"], num_processes=1, check=False)
    assert done.returncode != 0
    assert "earlier checkpoints are untouched" in done.stderr
    assert layout.list_steps(root) == [5, 10]
    assert {r.path: r.sha256 for r in manifest.verify(root / "10")} == before
    assert not [p for p in root.iterdir() if p.name.startswith(".saving")]
    outcome = read_outcome(root)
    assert outcome is not None and (outcome.why, outcome.checkpoint) == ("failed", str(root / "10"))


def test_the_small_files_count_the_steps_and_samples_of_their_checkpoint(saved: Path) -> None:
    for step in (5, 10):
        folder = saved / "plain" / str(step)
        general = load_config(folder / layout.CONFIG_FILE).general
        assert (general.step, general.consumed_train_samples) == (step, 8 * step)
        assert json.loads((folder / "lr_scheduler" / "lr_scheduler.json").read_text()) == {"last_epoch": step}
        metas = json.loads((folder / layout.METADATA_FILE).read_text())["metas"]
        assert (metas["last_train_step"], metas["consumed_train_samples"]) == (step, 8 * step)


def test_the_inventory_describes_every_step(saved: Path) -> None:
    rows = inventory.describe_steps(saved / "plain")
    assert [(row["step"], row["latest"], row["state"]) for row in rows] == [(5, False, "whole"), (10, True, "whole")]
    assert rows[1]["samples"] == 80
    assert json.dumps(rows)
