"""Tokenization over Slurm: arrays, a killed task, several arrays when one is not enough."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import Login

from nanotron_zagreus.slurm.template import fill, read_template
from tests.unit.tokenizer_fixtures import TEXTS, train_tokenizer

NUM_TASKS = 5


class Corpus:
    """Five files, the tokenizer, and the command that tokenizes them over Slurm."""

    def __init__(self, login: Login, repeat: int = 1) -> None:
        self.login = login
        self.tokenizer = train_tokenizer(login.folder / "tok")
        (login.folder / "corpus").mkdir()
        for index in range(NUM_TASKS):
            lines = (json.dumps({"text": text}) for text in TEXTS[index::NUM_TASKS] * repeat)
            (login.folder / "corpus" / f"{index}.jsonl").write_text("\n".join(lines))

    def tokenize(self, output: str, *options: str) -> str:
        """Run the command and return what it printed."""
        arguments = ["tokenize", "--input", "corpus", "--output", output, "--tokenizer", str(self.tokenizer)]
        return self.login.zagreus(*arguments, "--tasks", str(NUM_TASKS), "--encoder", "tokenizers", *options).stdout

    def submit(self, output: str, *options: str) -> str | None:
        """Submit what is missing; return the arrays' ids joined by colons, None when nothing is missing."""
        slurm = ("--executor", "slurm", "--slurm-partition", "main", "--slurm-memory-gb", "1", "--json")
        return json.loads(self.tokenize(output, *slurm, *options))[0]["job"]

    def shards(self, output: str) -> dict[str, bytes]:
        """Return every file of every whole shard."""
        return {path.name: path.read_bytes() for path in (self.login.folder / output).glob("*.ds*")}

    def tasks(self, job: str) -> dict[str, str]:
        """Return the state of every task of an array: index -> state."""
        return self.states(self.login, job)

    @staticmethod
    def states(login: Login, job: str) -> dict[str, str]:
        """The same for an array that was submitted in another way."""
        text = login.cluster.run(["scontrol", "--oneliner", "show", "job", job])
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
        return {row["ArrayTaskId"]: row["JobState"] for row in rows if "ArrayTaskId" in row}

    def wait(self, job: str) -> dict[str, str]:
        """Return the tasks' states once all have ended."""
        end = time.monotonic() + 600
        while not (states := self.tasks(job)) or set(states.values()) & {"PENDING", "RUNNING", "COMPLETING"}:
            assert time.monotonic() < end, (states, self.login.logs())
            time.sleep(0.3)
        return states


@pytest.fixture
def corpus(login: Login) -> Corpus:
    return Corpus(login)


def test_an_array_writes_what_one_machine_writes(corpus: Corpus) -> None:
    """More tasks than an array may have become two arrays, the second after the first."""
    arrays = corpus.submit("over-slurm", "--slurm-max-array", "3")
    assert arrays is not None and arrays.count(":") == 1
    corpus.tokenize("here", "--workers", "1")
    states = [state for job in arrays.split(":") for state in corpus.wait(job).values()]
    assert states.count("COMPLETED") >= NUM_TASKS, corpus.login.logs()
    assert corpus.shards("over-slurm") == corpus.shards("here")
    assert len(corpus.shards("here")) == 3 * NUM_TASKS
    assert corpus.submit("over-slurm") is None, "nothing was missing"


def test_a_killed_task_is_done_by_running_the_command_again(login: Login) -> None:
    corpus = Corpus(login, repeat=100)
    job = corpus.submit("shards")
    assert job is not None
    os.kill(pid_of_task(login, job, task="2"), signal.SIGKILL)
    states = corpus.wait(job)
    assert sorted(states.values()) == ["COMPLETED"] * (NUM_TASKS - 1) + ["FAILED"], login.logs()
    assert len(list((login.folder / "shards").glob("*.ds"))) == NUM_TASKS - 1, "no partial shard is left to be read"
    # The job that adds up statistics would otherwise wait in the queue for ever.
    assert login.cluster.wait(str(int(job) + 1), seconds=60)["JobState"] == "CANCELLED"
    again = corpus.submit("shards")
    assert again is not None
    assert list(corpus.wait(again).values()) == ["COMPLETED"], "only what was missing runs again"
    corpus.tokenize("here", "--workers", "1")
    assert corpus.shards("shards") == corpus.shards("here")


def test_a_job_behind_several_arrays_waits_for_all_of_them(corpus: Corpus) -> None:
    """The second array runs whatever becomes of the first one."""
    cluster = corpus.login.cluster
    arrays = corpus.submit("shards", "--slurm-max-array", "3")
    assert arrays is not None
    after = f"--dependency=afterok:{arrays}"
    waiting = ["sbatch", "--parsable", after, "--kill-on-invalid-dep=yes", "--output=/dev/null", "--wrap", "true"]
    job = cluster.run(waiting).strip()
    first, second = arrays.split(":")
    cluster.run(["scancel", first])
    assert set(corpus.wait(second).values()) == {"COMPLETED"}, corpus.login.logs()
    assert cluster.wait(job, seconds=60)["JobState"] == "CANCELLED"


def test_an_element_out_of_time_requeues_itself_and_no_other(login: Login) -> None:
    """Also the last element, whose job id is that of the array."""
    folder = login.folder
    binaries = folder / "environment" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f"export PATH={binaries}:$PATH\n")
    # Finishes a task, and at its first start a second one never.
    stand_in = """#!/bin/bash
        mkdir -p b/logs/completions; touch "b/logs/completions/$SLURM_ARRAY_TASK_ID.${{SLURM_RESTART_COUNT:-0}}"
        echo "$SLURM_ARRAY_TASK_ID" >>{0}/starts
        [ "$SLURM_ARRAY_TASK_ID${{SLURM_RESTART_COUNT:-}}" != 1 ] || exec sleep 600
        """
    (binaries / "zagreus").write_text(stand_in.format(folder))
    (binaries / "zagreus").chmod(0o755)
    (folder / "sources.tsv").write_text("a\ta\ttext\nb\tb\ttext\n")
    directives = {"array": "0-1", "cpus-per-task": "1", "account": None, "partition": "main"}
    variables = {"MODULES": "", "VENV": str(folder / "environment"), "HF_CACHE": ""}
    (folder / "job.sbatch").write_text(fill(read_template("tokenize"), directives, variables, [f"--chdir={folder}"]))
    job = login.cluster.run(["sbatch", "--parsable", folder / "job.sbatch"]).strip()
    end = time.monotonic() + 180
    while not (folder / "starts").exists() or sorted((folder / "starts").read_text().split()) != ["0", "1"]:
        assert time.monotonic() < end, login.logs()
        time.sleep(0.1)
    login.cluster.run(["scancel", "--signal=USR1", "--batch", f"{job}_1"])
    while (folder / "starts").read_text().count("1") < 2:
        assert time.monotonic() < end, login.logs()
        time.sleep(0.1)
    assert set(Corpus.states(login, job).values()) <= {"COMPLETED", "RUNNING", "COMPLETING"}
    assert (folder / "starts").read_text().count("0") == 1, login.logs()


def pid_of_task(login: Login, job: str, task: str) -> int:
    """Return the process id of the Python process that works on an array's task, once it writes its shard."""
    marks = {f"SLURM_ARRAY_JOB_ID={job}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = set((entry / "environ").read_bytes().split(b"\0"))
                command = (entry / "cmdline").read_bytes()
                open_files = [str(link.readlink()) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if marks <= environment and b"python" in command and any(".ds" in name for name in open_files):
                return int(entry.name)
        time.sleep(0.05)
    raise AssertionError(f"no process works on task {task} of job {job}\n{login.logs()}")
