"""A rank that hangs, dies, reads bad data, computes no numbers, or drifts. CPU, gloo, at most two ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from long_runs import ranks_of
from tiny_runs import (
    DP1,
    DP2,
    launch,
    read_events,
    read_losses,
    tiny_config,
    write_config,
)

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome

pytestmark = pytest.mark.integration


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
    root, process = long_run
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", output), output
    # The rank that is left writes why before it heeds torchrun's SIGTERM, which may come before it can print.
    outcome = read_outcome(root)
    assert outcome is not None and outcome.why == "failed"
    assert outcome.reason.startswith("rank 0: WorkError: the connection to another rank broke (")


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


LATE = {
    "checkpoints__checkpoint_interval": 5,
    "tokens__val_check_interval": 4,
    "tokens__limit_val_batches": 4,
    "zagreus__validation_windows_per_source": 6,
}


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
        "infinite": {"logging__iteration_step_info_interval": 5},
        "late": LATE,
        "in-time": LATE,
    }.items():
        folder = {"checkpoints__checkpoints_path": str(root / name)}
        options = DP2 | {"checkpoints__checkpoint_interval": 1} | overrides
        files[name] = write_config(root / f"{name}.yaml", tiny_config(saved, **options, **folder))
    poisoned_files = [f"nan:7@1:{files[name]}" for name in ("skip", "fused", "bf16", "tp", "pp", "in-time")]
    poisoned_files += [f"inf:7@1:{files['infinite']}", f"late-nan:7@1:{files['late']}"]
    launch([files["clean"], *poisoned_files], num_processes=2)
    return root


@pytest.mark.parametrize("name", ["skip", "fused", "bf16", "tp", "pp", "infinite"])
def test_a_nan_on_one_rank_skips_the_step_on_all(name: str, poisoned: Path) -> None:
    def state(step: int) -> dict[str, str]:
        files = manifest.read_manifest(poisoned / name / str(step))["files"]
        return {r["path"]: r["sha256"] for r in files if r["path"].startswith(("model/", "optimizer/"))}

    assert state(7) == state(6)
    assert state(8) != state(7)
    assert set(read_losses(poisoned / name)) == {1, 6, 11} if name == "infinite" else set(range(1, 13))
    (event,) = read_events(poisoned / name, "skipped_step")
    assert event["iteration"] == 7
    assert len(event["samples"]) == 8


def test_figures_read_one_step_late_say_the_same_in_the_same_order(poisoned: Path) -> None:
    def told(name: str) -> list[dict[str, object]]:
        rows = [json.loads(line) for line in (poisoned / name / "metrics.jsonl").read_text().splitlines()]
        timed = ("time_per_iteration_ms", "tokens_per_sec", "tokens_per_sec_per_gpu", "model_tflops_per_gpu")
        return [{key: repr(row[key]) for key in row if key not in (*timed, "eta_seconds")} for row in rows]

    assert told("late") == told("in-time")
    assert len(told("late")) == 12 + 1 + 6  # steps, the skipped one, three validations of two sources


@pytest.mark.parametrize(("mode", "noticed"), [("nan", [6, 7, 8]), ("late-nan", [6, 7, 8, 9])])
def test_too_many_skipped_steps_end_the_run(mode: str, noticed: list[int], saved: Path, tmp_path: Path) -> None:
    config = tiny_config(saved, **DP2, checkpoints__checkpoints_path=str(tmp_path / "run"))
    config["zagreus"]["guards"] = {"max_skipped_steps": 2}
    file = write_config(tmp_path / "run.yaml", config)
    done = launch([f"{mode}:6,7,8,9@0:{file}"], num_processes=2, check=False)
    assert done.returncode != 0
    assert "zagreus replay" in done.stderr
    assert "step 8: the loss or the gradient norm was not finite in the last 3 steps" in done.stderr
    assert layout.list_steps(tmp_path / "run") == [5]
    assert [event["iteration"] for event in read_events(tmp_path / "run", "skipped_step")] == noticed
    assert list(read_losses(tmp_path / "run")) == list(range(1, noticed[-1] + 1))
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
