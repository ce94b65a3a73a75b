"""What may go wrong in a run, and what is left afterwards. CPU, gloo, at most two ranks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import (
    launch,
    launch_command,
    launch_environment,
    read_events,
    read_losses,
    tiny_config,
    write_config,
)

from nanotron_zagreus.checkpoints import inventory, layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.config import load_config
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.training.resume_point import find_resume_point
from nanotron_zagreus.training.signals import SECOND_SIGNAL_SECONDS

pytestmark = pytest.mark.integration

DP2 = {"parallelism__dp": 2, "tokens__batch_accumulation_per_replica": 2}
DP1 = {"parallelism__dp": 1, "tokens__batch_accumulation_per_replica": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process with the steps 5 and 10 saved, and the figures of its kin."""
    root = tmp_path_factory.mktemp("saved")
    names = {
        "plain": {},
        "foreground": {"zagreus__checkpoints": {"background": False}},
        "keep": {"checkpoints__checkpoint_interval": 1, "zagreus__checkpoints": {"keep_last": 2, "keep_every": 4}},
        "final": {"checkpoints__save_final_state": True, "checkpoints__save_initial_state": True},
    }
    files = [
        write_config(root / f"{n}.yaml", tiny_config(root, **o, checkpoints__checkpoints_path=str(root / n)))
        for n, o in names.items()
    ]
    launch(files, num_processes=1)
    return root


def start(config: Path | str, num_processes: int) -> subprocess.Popen[str]:
    """Start a launch and return at once."""
    return subprocess.Popen(
        launch_command([config], num_processes),
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(root: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has logged ``step``."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (root / "metrics.jsonl").exists() and max(read_losses(root), default=0) >= step:
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[0])
        time.sleep(0.05)
    raise AssertionError("the run logged nothing")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the pids of a launch's ranks, in the order of their numbers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"RANK="):
                    ranks[int(entry[5:])] = int(child)
    return [ranks[number] for number in sorted(ranks)]


def kill_everything(process: subprocess.Popen[str]) -> None:
    """End a launch that still runs, and its ranks, which torchrun started in sessions of their own."""
    if process.poll() is None:
        for pid in [*ranks_of(process), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A launch of two ranks that would train for long, killed at the end of the test."""
    overrides = {"tokens__train_steps": 100_000, "checkpoints__checkpoint_interval": 50_000}
    guards = {"zagreus__guards": {"hang_timeout_seconds": 8.0}}
    config = tiny_config(tmp_path, **DP2, **overrides, **guards)
    process = start(write_config(tmp_path / "run.yaml", config), 2)
    root = tmp_path / "checkpoints"
    try:
        wait_for_step(root, 3, process)
        yield root, process
    finally:
        kill_everything(process)


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
    # Every file is made, flushed, and its folder too; the manifest, the rename and latest.txt come after.
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


def test_damage_in_any_file_is_found_before_loading(saved: Path, tmp_path: Path) -> None:
    files = [record["path"] for record in manifest.read_manifest(saved / "plain" / "5")["files"]]
    for name in [*files, layout.MANIFEST_FILE]:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", str(saved / "plain" / "5"), str(copy)], check=True)
        path = copy / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises((VerificationError, InputError), match=re.escape(name)):
            manifest.verify(copy)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises((VerificationError, InputError), match=re.escape(name)):
            manifest.verify(copy)
        subprocess.run(["rm", "-r", str(copy)], check=True)


def test_a_damaged_checkpoint_is_refused_or_the_one_before_taken_as_configured(saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    subprocess.run(["cp", "-r", str(saved / "plain"), str(root)], check=True)
    victim = next((root / "10" / "optimizer").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    # A pickle that would make a file, were it ever opened.
    canary = tmp_path / "canary"
    (root / "10" / "optimizer" / "evil.pt").write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    config = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path="auto")
    refused = launch([write_config(tmp_path / "strict.yaml", config)], num_processes=1, check=False)
    assert refused.returncode != 0
    assert victim.name in refused.stderr
    config["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    launch([write_config(tmp_path / "fallback.yaml", config)], num_processes=1)
    reference = manifest.read_manifest(saved / "plain" / "10")["files"]
    again = {r["path"]: r["sha256"] for r in manifest.read_manifest(root / "10")["files"]}
    assert all(again[r["path"]] == r["sha256"] for r in reference if r["path"] != "config.yaml")
    assert not canary.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def change_counter(path: Path) -> None:
    path.write_text(path.read_text().replace('"consumed_samples": 80', '"consumed_samples": 90'))


DAMAGES = {
    "manifest.json cut": lambda step: cut(step / "manifest.json"),
    "manifest.json changed": lambda step: change_counter(step / "manifest.json"),
    "manifest.json missing": lambda step: (step / "manifest.json").unlink(),
    "config.yaml cut": lambda step: cut(step / "config.yaml"),
    "model_config.json missing": lambda step: (step / "model_config.json").unlink(),
    "checkpoint_metadata.json cut": lambda step: cut(step / "checkpoint_metadata.json"),
    "optimizer cut": lambda step: cut(next((step / "optimizer").iterdir())),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be the only rank of a launch."""
    from nanotron_zagreus.training import agreement, resume_choice

    for module in (agreement, resume_choice):
        monkeypatch.setattr(module, "exchange", lambda value: [value])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("wanted", ["auto", "step"])
def test_whatever_is_damaged_an_older_sound_step_is_taken_or_none(
    wanted: str, damage: str, saved: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    root = tmp_path / "run"
    shutil.copytree(saved / "plain", root)
    shutil.copytree(saved / "final" / "12", root / "12")  # of a branch that was given up
    DAMAGES[damage](root / "10")
    path = "auto" if wanted == "auto" else str(root / "10")
    data = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path=path)
    with pytest.raises((VerificationError, InputError)):
        choose_resume_point(load_config(write_config(tmp_path / "strict.yaml", data)))
    data["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    config = load_config(write_config(tmp_path / "fallback.yaml", data))
    point = choose_resume_point(config)
    assert point is not None and point.step == 5
    assert "going on from step 5" in capsys.readouterr().err
    cut(root / "5" / "config.yaml")
    with pytest.raises(VerificationError, match="No older step"):
        choose_resume_point(config)


def test_a_fallback_does_not_hide_that_the_run_does_not_fit(saved: Path, tmp_path: Path, alone: None) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    data = tiny_config(saved, checkpoints__resume_checkpoint_path=str(saved / "plain"), tokens__train_steps=9)
    data["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    with pytest.raises(InputError, match="train_steps"):
        choose_resume_point(load_config(write_config(tmp_path / "c.yaml", data)))


def test_auto_takes_the_newest_whole_step_of_a_run_killed_before_its_first_latest_file(
    saved: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    root = tmp_path / "run"
    shutil.copytree(saved / "plain", root)
    (root / "latest.txt").unlink()
    data = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path="auto")
    config = load_config(write_config(tmp_path / "c.yaml", data))
    point = choose_resume_point(config)
    assert point is not None and point.step == 10
    assert "no latest.txt" in capsys.readouterr().err
    (root / "10" / "manifest.json").unlink()
    point = choose_resume_point(config)
    assert point is not None and point.step == 5


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
    assert "earlier checkpoints are untouched: rank 0: OSError: OSError: [Errno 28]" in done.stderr
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
    assert outcome is not None and outcome.why == "failed"


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


def test_save_and_stop_files_are_carried_out_and_removed(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    root, process = long_run
    (root / "SAVE").touch()
    deadline = time.monotonic() + 30
    while (root / "SAVE").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None
    saved_step = layout.read_latest(root)
    (root / "STOP").touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "stopped"
    assert layout.list_steps(root) == [saved_step, outcome.step]
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
        wait_for_step(root, 6, process)  # two steps more reach into the second stage
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


def test_a_standing_rank_ends_the_job_and_is_named(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    _, process = long_run
    ranks = ranks_of(process)
    time.sleep(1.6)  # more than the watchdog's period: places are published every 0.8 s here
    started = time.monotonic()
    os.kill(ranks[1], signal.SIGSTOP)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "no progress for" in line:
            os.kill(ranks[1], signal.SIGKILL)  # torchrun would wait 30 s for it
            break
    assert re.search(r"rank 1 was last heard of .* at step \d+: ", lines[-1]), lines
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - started < 30


def test_a_killed_rank_ends_the_job_and_is_named(long_run: tuple[Path, subprocess.Popen[str]]) -> None:
    _, process = long_run
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", output), output


def test_one_ranks_bad_data_ends_the_job_at_once_and_says_why(saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = tiny_config(saved, **DP2, checkpoints__checkpoints_path=str(root))
    config["zagreus"]["guards"] = {"hang_timeout_seconds": 60.0}
    done = launch([f"bad-data:7@1:{write_config(tmp_path / 'run.yaml', config)}"], num_processes=2, check=False)
    assert done.returncode != 0
    assert "no progress" not in done.stderr
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "failed"
    assert outcome.reason == "rank 1: WorkError: x.ds: holds token 65535 in window 300"
    assert layout.list_steps(root) == []


def test_slow_saves_and_validations_go_on_and_a_rank_without_data_ends_the_job_and_is_named(
    saved: Path, tmp_path: Path
) -> None:
    held_out = {"zagreus__validation_windows_per_source": 16, "tokens__limit_val_batches": 6}
    config = tiny_config(saved, **DP2, **held_out, tokens__val_check_interval=4)
    root = tmp_path / "run"
    config["checkpoints"] |= {"checkpoints_path": str(root), "checkpoint_interval": 3}
    config["zagreus"] |= {"guards": {"hang_timeout_seconds": 4.0}, "checkpoints": {"background": False}}
    done = launch([f"slow-then-hung:5@1:{write_config(tmp_path / 'run.yaml', config)}"], num_processes=2, check=False)
    assert done.returncode != 0
    assert set(read_losses(root)) == {1, 2, 3, 4}
    assert [event["iteration"] for event in read_events(root, "validation")] == [4, 4]
    assert layout.list_steps(root) == [3]
    assert re.search(
        r"rank 1 is at step 5: reading data|rank 1: no progress for .* at step 5: reading data", done.stderr
    )


@pytest.fixture(scope="module")
def poisoned(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two ranks with NaN losses on rank 1, and one whose replicas drift apart."""
    root = tmp_path_factory.mktemp("poisoned")
    files = {}
    for name, overrides in {
        "clean": {},
        "skip": {},
        "fused": {"optimizer__optimizer_factory": {"torch_adam_is_fused": True}},
        "bf16": {"model__dtype": "bfloat16", "optimizer__accumulate_grad_in_fp32": True},
        "tp": {"parallelism__tp": 2, **DP1},
        "pp": {"parallelism__pp": 2, **DP1},
    }.items():
        config = tiny_config(saved, **(DP2 | overrides), checkpoints__checkpoints_path=str(root / name))
        config["checkpoints"]["checkpoint_interval"] = 1
        files[name] = write_config(root / f"{name}.yaml", config)
    poisoned_files = [f"nan:7@1:{files[name]}" for name in ("skip", "fused", "bf16", "tp", "pp")]
    launch([files["clean"], *poisoned_files], num_processes=2)
    return root


@pytest.mark.parametrize("name", ["skip", "fused", "bf16", "tp", "pp"])
def test_a_nan_on_one_rank_skips_the_step_on_all(name: str, poisoned: Path) -> None:
    def state(step: int) -> dict[str, str]:
        files = manifest.read_manifest(poisoned / name / str(step))["files"]
        return {r["path"]: r["sha256"] for r in files if r["path"].startswith(("model/", "optimizer/"))}

    assert state(7) == state(6)
    assert state(8) != state(7)
    assert set(read_losses(poisoned / name)) == set(range(1, 13))
    (event,) = read_events(poisoned / name, "skipped_step")
    assert event["iteration"] == 7
    assert len(event["samples"]) == 8


def test_too_many_skipped_steps_end_the_run(poisoned: Path, saved: Path, tmp_path: Path) -> None:
    config = tiny_config(saved, **DP2, checkpoints__checkpoints_path=str(tmp_path / "run"))
    config["zagreus"]["guards"] = {"max_skipped_steps": 2}
    file = write_config(tmp_path / "run.yaml", config)
    done = launch([f"nan:6,7,8,9@0:{file}"], num_processes=2, check=False)
    assert done.returncode != 0
    assert "zagreus replay" in done.stderr
    assert layout.list_steps(tmp_path / "run") == [5]
    assert [event["iteration"] for event in read_events(tmp_path / "run", "skipped_step")] == [6, 7, 8]
    outcome = read_outcome(tmp_path / "run")
    assert outcome is not None and outcome.why == "failed"


def test_replicas_that_drift_apart_are_noticed(saved: Path, tmp_path: Path) -> None:
    config = tiny_config(saved, **DP2, checkpoints__checkpoints_path=str(tmp_path / "run"))
    config["zagreus"]["guards"] = {"replica_check_interval": 4}
    file = write_config(tmp_path / "run.yaml", config)
    done = launch([f"drift:6@1:{file}"], num_processes=2, check=False)
    assert done.returncode != 0
    assert "step 8: the weights of ranks" in done.stderr
    assert layout.list_steps(tmp_path / "run") == [5]


def test_validation_scores_each_source_and_leaves_training_alone(saved: Path, tmp_path: Path) -> None:
    held_out = {"zagreus__validation_windows_per_source": 6}
    runs = {"without": {}, "with": {"tokens__val_check_interval": 3, "tokens__limit_val_batches": 4}}
    files = {}
    for name, overrides in runs.items():
        folder = {"checkpoints__checkpoints_path": str(tmp_path / name)}
        files[name] = write_config(
            tmp_path / f"{name}.yaml", tiny_config(saved, **DP2, **held_out, **overrides, **folder)
        )
    pipeline = tiny_config(
        saved,
        **held_out,
        parallelism__pp=2,
        tokens__val_check_interval=3,
        tokens__limit_val_batches=8,
        checkpoints__checkpoints_path=str(tmp_path / "pp"),
    )
    launch([*files.values(), write_config(tmp_path / "pp.yaml", pipeline)], num_processes=2)
    assert read_losses(tmp_path / "with") == read_losses(tmp_path / "without")
    events = read_events(tmp_path / "with", "validation")
    assert [event["iteration"] for event in events] == [3, 3, 6, 6, 9, 9, 12, 12]
    assert {Path(event["source"]).name for event in events} == {"a", "b"}
    assert events[-1]["loss"] < events[0]["loss"]
    for ours, theirs in zip(events, read_events(tmp_path / "pp", "validation"), strict=True):
        assert ours["num_tokens"] == theirs["num_tokens"]
        assert abs(ours["loss"] - theirs["loss"]) < 1e-5


def test_a_resume_path_that_does_not_exist_is_an_error(saved: Path, tmp_path: Path) -> None:
    config = tiny_config(saved, checkpoints__resume_checkpoint_path=str(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match="does not exist"):
        find_resume_point(load_config(write_config(tmp_path / "c.yaml", config)))


def test_resuming_another_model_or_a_finished_run_is_refused(saved: Path, tmp_path: Path) -> None:
    resume = {"checkpoints__resume_checkpoint_path": str(saved / "plain")}
    wider = tiny_config(saved, **resume, model__model_config__intermediate_size=96)
    with pytest.raises(InputError, match="intermediate_size"):
        find_resume_point(load_config(write_config(tmp_path / "wider.yaml", wider)))
    shorter = tiny_config(saved, **resume, tokens__train_steps=9)
    with pytest.raises(InputError, match="train_steps"):
        find_resume_point(load_config(write_config(tmp_path / "shorter.yaml", shorter)))


def test_a_fresh_run_does_not_write_into_another_runs_folder(saved: Path, tmp_path: Path) -> None:
    from nanotron_zagreus.training.run import run_training

    config = tiny_config(saved, checkpoints__checkpoints_path=str(saved / "plain"))
    with pytest.raises(InputError, match="resume_checkpoint_path"):
        run_training(write_config(tmp_path / "c.yaml", config))


def test_the_inventory_describes_every_step(saved: Path) -> None:
    rows = inventory.describe_steps(saved / "plain")
    assert [(row["step"], row["latest"], row["state"]) for row in rows] == [(5, False, "whole"), (10, True, "whole")]
    assert rows[1]["samples"] == 80
    assert json.dumps(rows)
