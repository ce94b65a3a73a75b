"""What the training script decides, with a stand-in for torchrun: fast, so that every way to end is tried."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from cluster import SlurmCluster
from conftest import Login
from tiny_runs import tiny_config, write_config

from nanotron_zagreus.slurm.template import read_template

# Acts out one start: it waits for the request to stop, if told to, and leaves the outcome a trainer would.
TORCHRUN = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
signals = []
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
acts = json.loads(Path("{acts}").read_text())
act = acts[min(int(os.environ.get("SLURM_RESTART_COUNT") or 0), len(acts) - 1)]
root = Path("{root}")
with open("{folder}/arguments." + os.environ["SLURMD_NODENAME"], "a") as file:
    file.write(json.dumps([sys.argv[1:], os.environ["OMP_NUM_THREADS"], os.environ.get("HF_HUB_OFFLINE")]) + "\\n")
while act.get("waits") and not (root / "STOP").exists() and not signals:
    time.sleep(0.1)
outcome = {{"why": act.get("why"), "step": act.get("step"), "checkpoint": None}}
outcome["reason"] = "SIGTERM on rank 0" if signals else ""
if "why" in act and os.environ["SLURMD_NODENAME"] == "n1":
    (root / "outcome.json").write_text(json.dumps(outcome))
time.sleep(1)
(root / "STOP").unlink(missing_ok=True)
sys.exit(1 if signals else act.get("code", 0))
"""


class Stage:
    """A login whose jobs run the stand-in."""

    def __init__(self, login: Login) -> None:
        self.login, self.folder = login, login.folder
        self.root = self.folder / "checkpoints"
        self.environment = self.folder / "environment"
        self.binaries = self.environment / "bin"
        self.binaries.mkdir(parents=True)
        path = f"{self.binaries}:{Path(sys.executable).parent}"
        (self.binaries / "activate").write_text(f"export PATH={path}:$PATH\n")
        (self.folder / "tok").mkdir()

    def submit(self, acts: list[dict[str, object]], *, nodes: int = 2, **site: object) -> str:
        """Submit a run in which start i does ``acts[i]``, the last one from then on; return its job id."""
        acts_file, script = self.folder / "acts.json", self.binaries / "torchrun"
        acts_file.write_text(json.dumps(acts))
        script.write_text(TORCHRUN.format(python=sys.executable, acts=acts_file, root=self.root, folder=self.folder))
        script.chmod(0o755)
        path = self.folder / "slurm_site.yaml"
        filled = {**yaml.safe_load(path.read_text()), "venv": str(self.environment), **site}
        path.write_text(yaml.safe_dump(filled))
        config = tiny_config(self.folder, parallelism__dp=2 * nodes, tokens__batch_accumulation_per_replica=1)
        return self.login.submit(write_config(self.folder / "run.yaml", config), nodes=nodes, gpus=2)["train"]

    def wait_for_start(self, job: str) -> None:
        """Return once the stand-in runs in the job's present start."""
        starts = int(self.login.cluster.job(job)["Restarts"]) + 1
        self.login.wait_until(lambda: len(self.arguments()) >= starts)

    def ask_for_a_save(self, job: str) -> None:
        """Send what Slurm sends before the time limit, once the stand-in runs in the job's present start."""
        self.wait_for_start(job)
        self.login.cluster.run(["scancel", "--signal=USR1", "--batch", job])

    def arguments(self) -> list[list[object]]:
        """Return what the stand-in on the first node was called with, one entry for each start."""
        path = self.folder / "arguments.n1"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stage(login: Login) -> Stage:
    return Stage(login)


FINISHED = {"why": "finished", "step": 12}


def stopped(step: int) -> dict[str, object]:
    return {"waits": True, "why": "stopped", "step": step}


def test_every_rank_is_started_once_with_a_port_of_the_jobs_own(stage: Stage) -> None:
    job = stage.submit([FINISHED])
    ended = stage.login.cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), stage.login.logs()
    ((arguments, threads, offline),) = stage.arguments()
    assert isinstance(arguments, list)
    assert {"--nnodes=2", "--nproc_per_node=2", "--rdzv_backend=c10d", "--max_restarts=0"} <= set(arguments)
    assert f"--rdzv_id={job}.0" in arguments
    (endpoint,) = [text for text in arguments if text.startswith("--rdzv_endpoint=n1:")]
    assert 20_000 <= int(endpoint.rpartition(":")[2]) < 32_768
    assert (threads, offline) == ("1", "1")  # 2 CPUs a node over 2 ranks
    assert (stage.folder / "arguments.n2").exists()


def test_the_ranks_get_the_environment_where_jobs_get_none(stage: Stage) -> None:
    """Some sites ask for --export=NONE, which srun would pass on."""
    job = stage.submit([FINISHED], directives=["--export=NONE"])
    assert stage.login.cluster.wait(job)["JobState"] == "COMPLETED", stage.login.logs()


def test_saves_are_followed_by_requeues_until_the_run_is_finished(stage: Stage) -> None:
    job = stage.submit([stopped(4), stopped(8), FINISHED])
    for restarts in (0, 1):
        assert stage.login.cluster.wait(job, "RUNNING")["Restarts"] == str(restarts)
        stage.ask_for_a_save(job)
        stage.login.cluster.wait(job, "PENDING", "COMPLETING", seconds=30)
    ended = stage.login.cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), stage.login.logs()
    ids = [[text for text in arguments if "rdzv_id" in text] for arguments, _, _ in stage.arguments()]  # type: ignore[attr-defined]
    assert ids == [[f"--rdzv_id={job}.{start}"] for start in range(3)]


def test_a_preempted_job_saves_and_goes_on_when_its_nodes_are_free_again(stage: Stage, cluster: SlurmCluster) -> None:
    """Slurm tells the ranks alone, waits, and would then requeue a job that still runs."""
    job = stage.submit([stopped(4), FINISHED])
    stage.wait_for_start(job)
    cluster.run(["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"])
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), stage.login.logs()
    assert "requeueing to go on after step 4" in stage.login.logs()


def test_a_time_limit_while_the_job_starts_is_heard(stage: Stage, cluster: SlurmCluster) -> None:
    started = stage.folder / "started"
    activate = (stage.binaries / "activate").read_text()
    (stage.binaries / "activate").write_text(f'{activate}touch {started}\n[ -n "$SLURM_RESTART_COUNT" ] || sleep 3\n')
    job = stage.submit([stopped(4), FINISHED])
    stage.login.wait_until(started.exists)
    cluster.run(["scancel", "--signal=USR1", "--batch", job])
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), stage.login.logs()


def test_a_second_submission_of_a_running_job_is_refused(stage: Stage, cluster: SlurmCluster) -> None:
    job = stage.submit([stopped(4)])
    stage.wait_for_start(job)
    launch = ("--config-file", "run.yaml", "--nodes", "2", "--gpus-per-node", "2")
    assert f"train {job}" in stage.login.zagreus("slurm", "submit", *launch, code=2).stderr
    # Started by hand, the second job finds the first.
    by_hand = cluster.run(["sbatch", "--parsable", stage.folder / "slurm_jobs" / "tiny" / "train.sbatch"]).strip()
    assert cluster.wait(by_hand)["ExitCode"] == "2:0", stage.login.logs()
    assert f"job {job} trains into" in stage.login.logs()
    (stage.root / "STOP").touch()
    assert cluster.wait(job)["ExitCode"] == "75:0", stage.login.logs()


@pytest.mark.parametrize(
    ("acts", "is_asked", "site", "exit_code", "words"),
    [
        ([{"code": 1}], False, {}, "1:0", "failed: see"),
        ([{"code": 1, "why": "failed", "step": 3}], False, {}, "1:0", "outcome: failed at step 3"),
        ([stopped(4)], True, {"max_requeues": 0}, "75:0", "MAX_REQUEUES = 0 is used up"),
        ([stopped(0)], True, {}, "1:0", "no step was finished"),
        ([{"why": "stopped", "step": 4}], False, {}, "75:0", "stopped on request"),
        ([{"why": "running", "step": 4}], False, {}, "1:0", "without a word"),
        ([{}], False, {}, "1:0", "outcome: unknown"),
    ],
)
def test_a_run_that_should_not_go_on_is_not_requeued(
    acts: list[dict[str, object]], is_asked: bool, site: dict[str, object], exit_code: str, words: str, stage: Stage
) -> None:
    job = stage.submit(acts, **site)
    if is_asked:
        stage.ask_for_a_save(job)
    ended = stage.login.cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", exit_code, "0"), stage.login.logs()
    assert words in stage.login.logs()


def test_a_topology_that_does_not_fit_the_allocation_starts_no_rank(stage: Stage, cluster: SlurmCluster) -> None:
    """As when a script is edited by hand: the check in the job refuses what `submit` would have."""
    cluster.wait(stage.submit([FINISHED]))
    folder = stage.folder / "slurm_jobs" / "tiny"
    text = (folder / "train.sbatch").read_text().replace("#SBATCH --gres=gpu:2", "#SBATCH --gres=gpu:4")
    (folder / "edited.sbatch").write_text(text)
    job = cluster.run(["sbatch", "--parsable", folder / "edited.sbatch"]).strip()
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), stage.login.logs()
    assert "8 ranks were launched, but dp x tp x pp = 4" in stage.login.logs()
    assert len(stage.arguments()) == 1, "the first job's only"


def test_the_template_runs_as_it_stands_once_its_values_are_written_in(stage: Stage, cluster: SlurmCluster) -> None:
    """Filled in by hand, without `zagreus slurm`."""
    cluster.wait(stage.submit([FINISHED]))
    text = read_template("train")
    for old, new in (
        ("--nodes=8", "--nodes=2"),
        ("--gres=gpu:8", "--gres=gpu:2"),
        ("--cpus-per-task=32", "--cpus-per-task=2"),
        ("#SBATCH --account=YOUR_ACCOUNT\n", ""),
        ("YOUR_PARTITION", "main"),
        ('"profile/global python/3.11 cuda/12.2 cudnn nccl gcc"', '""'),
        ("/path/to/venv", str(stage.environment)),
        ("/path/to/hf_home", str(stage.folder / "hf")),
        ("smollm2/zagreus_350M_por.yaml #", "run.yaml #"),
    ):
        assert old in text
        text = text.replace(old, new)
    script = stage.folder / "mine.sbatch"
    script.write_text(text)
    job = cluster.run(["sbatch", "--parsable", f"--chdir={stage.folder}", script]).strip()
    assert cluster.wait(job)["JobState"] == "COMPLETED", stage.login.logs()
    assert [path.name for path in (stage.folder / "logs").iterdir()] == [f"train-{job}"]
