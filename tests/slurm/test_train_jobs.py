"""The rendered training job on two nodes: it trains what one process trains, and every way to end it ends well."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import SlurmCluster
from conftest import Login
from tiny_runs import launch, read_losses, tiny_config, write_config

# Steps long enough (many micro-batches) that a request can come in the middle, and few of them: every step costs
# several exchanges between processes, which are slow where cores are few.
LONG = {
    "parallelism__dp": 2,
    "tokens__batch_accumulation_per_replica": 48,
    "tokens__train_steps": 30,
    "checkpoints__checkpoint_interval": 10_000,
    "checkpoints__save_final_state": True,
}
ENDLESS = {**LONG, "tokens__train_steps": 1_000_000}
_PATIENCE_SECONDS = 600


@dataclass
class Run:
    """One submitted run."""

    login: Login
    root: Path
    config: Path
    job: str

    def wait_for_steps(self, step: int) -> None:
        """Return once the run has finished ``step``."""

        def reached() -> bool:
            return any(event.get("iteration", 0) >= step for event in self.login.events(self.root))

        self.login.wait_until(reached, _PATIENCE_SECONDS)

    def end(self) -> dict[str, str]:
        """Return the job's fields once it has ended."""
        return dict(self.login.cluster.wait(self.job, seconds=_PATIENCE_SECONDS))

    def outcome(self) -> dict[str, Any]:
        return json.loads((self.root / "outcome.json").read_text())


@pytest.fixture(scope="module")
def submitted(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Submit a run by name; what it is submitted with stands in the call."""

    def submit(name: str, gpus: int = 1, **overrides: Any) -> Run:
        folder = tmp_path_factory.mktemp(name)
        (folder / "tok").mkdir()
        login = Login(cluster, folder)
        config = write_config(folder / "run.yaml", tiny_config(folder, general__run=name, **overrides))
        return Run(login, folder / "checkpoints", config, login.submit(config, gpus=gpus)["train"])

    return submit


def test_two_nodes_give_the_losses_of_one_process(submitted: Callable[..., Run], tmp_path: Path) -> None:
    run = submitted("plain", gpus=2, parallelism__dp=4, tokens__batch_accumulation_per_replica=1)
    alone = write_config(tmp_path / "alone.yaml", tiny_config(tmp_path))
    launch([alone], num_processes=1)
    job = run.end()
    assert job["JobState"] == "COMPLETED", run.login.logs()
    assert (job["NumNodes"], job["Restarts"]) == ("2", "0")
    assert run.outcome()["why"] == "finished"
    losses, reference = read_losses(run.root), read_losses(tmp_path / "checkpoints")
    assert losses.keys() == reference.keys() == set(range(1, 13))
    worst = max(abs(losses[step] - reference[step]) for step in losses)
    print(f"2 nodes x 2 ranks against one process: largest loss difference {worst:.1e}")
    assert worst <= 1e-5  # fp32: only the order of additions differs
    (logs,) = run.login.folder.glob("slurm_jobs/plain/logs/train-*")
    assert sorted(path.name for path in logs.glob("train.0.*")) == ["train.0.n1.log", "train.0.n2.log"]
    environment = (logs / "environment.0.txt").read_text()
    assert "torch==" in environment and "NumNodes=2" in environment


def test_a_job_told_to_save_requeues_and_ends_bit_equal(submitted: Callable[..., Run], tmp_path: Path) -> None:
    run = submitted("requeued", **LONG)
    run.wait_for_steps(3)
    run.login.cluster.run(["scancel", "--signal=USR1", "--batch", run.job])
    untouched = write_config(tmp_path / "untouched.yaml", tiny_config(tmp_path, **LONG))
    launch([untouched], num_processes=2)

    job = run.end()
    assert job["JobState"] == "COMPLETED", run.login.logs()
    assert job["Restarts"] == "1"
    steps = [event["iteration"] for event in run.login.events(run.root) if "lm_loss" in event]
    assert steps == list(range(1, 31)), "a step was lost or done twice"
    assert read_losses(run.root) == read_losses(tmp_path / "checkpoints")
    mine, theirs = (weight_hashes(root / "30") for root in (run.root, tmp_path / "checkpoints"))
    assert mine == theirs
    assert len(mine) > 5


def weight_hashes(checkpoint: Path) -> dict[str, str]:
    """Return the hashes of a checkpoint's weights and optimizer state."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {file["path"]: file["sha256"] for file in files if file["path"].startswith(("model/", "optimizer/"))}


def test_a_killed_rank_fails_the_job_and_leaves_no_process(submitted: Callable[..., Run]) -> None:
    run = submitted("killed", **ENDLESS)
    run.wait_for_steps(5)
    os.kill(pid_of_rank(1, run.job), signal.SIGKILL)
    job = run.end()
    assert job["JobState"] == "FAILED", run.login.logs()
    assert job["Restarts"] == "0"
    run.login.wait_until(lambda: not run.login.cluster.processes_of_job(run.job), 30)


def pid_of_rank(rank: int, job: str) -> int:
    """Return the process id of a job's rank, as this host sees it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if {f"RANK={rank}".encode(), f"SLURM_JOB_ID={job}".encode(), b"LOCAL_RANK=0"} <= set(environment):
            return int(entry.name)
    raise AssertionError(f"no process is rank {rank} of job {job}")
