"""The one test that waits for a real time limit: Slurm itself tells the job to save, and it goes on; scancel saves."""

from __future__ import annotations

import json
import time

from conftest import Login
from tiny_runs import tiny_config, write_config


def test_a_real_time_limit_saves_and_requeues_and_scancel_saves_and_leaves_no_process(login: Login) -> None:
    (login.folder / "tok").mkdir()
    config = tiny_config(
        login.folder,
        parallelism__dp=2,
        tokens__batch_accumulation_per_replica=2,
        tokens__train_steps=1_000_000,
        checkpoints__checkpoint_interval=1_000_000,
    )
    file = write_config(login.folder / "run.yaml", config)
    root = login.folder / "checkpoints"
    job = login.submit(file, "--time", "0-00:02:00", "--lead", "60")["train"]
    end = time.monotonic() + 600
    while int(login.cluster.job(job)["Restarts"]) == 0:
        assert login.cluster.job(job)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), login.logs()
        assert time.monotonic() < end, login.logs()
        time.sleep(0.5)
    (saved,) = (int(path.name) for path in root.iterdir() if path.name.isdigit())
    assert json.loads((root / str(saved) / "manifest.json").read_text())["step"] == saved
    while max(event.get("iteration", 0) for event in login.events(root)) <= saved:
        assert time.monotonic() < end, login.logs()
        time.sleep(0.5)
    assert f"requeueing to go on after step {saved}" in login.logs()

    login.cluster.run(["scancel", job])
    assert login.cluster.wait(job)["JobState"] == "CANCELLED"
    while left := login.cluster.processes_of_job(job):
        assert time.monotonic() < end, left
        time.sleep(0.2)
    outcome = json.loads((root / "outcome.json").read_text())
    assert outcome["why"] == "stopped" and outcome["step"] > saved, login.logs()
    assert (root / "latest.txt").read_text() == str(outcome["step"])
    assert (root / str(outcome["step"]) / "manifest.json").is_file()
    steps = [event["iteration"] for event in login.events(root) if "lm_loss" in event]
    assert steps == list(range(1, len(steps) + 1)), "a step was lost or done twice"
