"""Tokenizations that are killed, and tasks that are, leave whole shards and are taken up again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanotron_zagreus.data.shards import list_shards
from nanotron_zagreus.data.verification import incomplete_folders, verify_shard
from tests.unit.tokenizer_fixtures import TEXTS, train_tokenizer

pytestmark = pytest.mark.integration


@pytest.fixture
def slow_job(tmp_path: Path) -> list[str]:
    """Return a command line of four tasks that take a moment each."""
    (tmp_path / "in").mkdir()
    lines = "\n".join(json.dumps({"text": text * 20}) for text in TEXTS)
    for number in range(4):
        (tmp_path / "in" / f"{number}.jsonl").write_text(lines)
    command = [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()", "tokenize"]
    command += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--tasks", "4", "--workers", "2"]
    tokenizer = train_tokenizer(tmp_path / "tokenizer", named=True)
    return [*command, "--tokenizer", str(tokenizer), "--encoder", "tokenizers"]


def kill_at_work(command: list[str], output: Path, delay_seconds: float) -> bool:
    """Run ``command``, kill it a moment after a task began its shard; return whether that hit an unfinished shard."""
    partial = output / ".partial"
    before = set(partial.glob("*"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (begun := set(partial.glob("*.ds")) - before):
        assert process.poll() is None and time.monotonic() < deadline, "no task was seen at work"
        time.sleep(0.002)
    time.sleep(delay_seconds)
    begun |= set(partial.glob("*.ds")) - before
    process.kill()  # the command alone: its tasks must notice by themselves
    process.wait()
    for pid in {int(path.name.split("~")[2]) for path in begun}:
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "a task goes on without its command"
            time.sleep(0.005)
    return any(path.exists() for path in begun)


def test_a_tokenization_killed_anywhere_leaves_whole_shards_only(slow_job: list[str], tmp_path: Path) -> None:
    rng, output, hits = random.Random(0), tmp_path / "out", 0
    while hits < 2:
        hits += kill_at_work(slow_job, output, rng.uniform(0, 0.15))
        assert [report.problem for report in map(verify_shard, output.glob("*.ds")) if report.problem] == []
    done = subprocess.run(slow_job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(shard.num_documents for shard in list_shards(output)) == 4 * len(TEXTS)
    assert incomplete_folders([output]) == []
    assert not list((output / ".partial").iterdir())


def task_written_by(pid: int, partial: Path) -> int | None:
    """Return the rank of the task whose unfinished shard process ``pid`` holds open, if it holds one."""
    try:
        opened = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None
    return next((int(path.name[:5]) for path in opened if path.parent == partial), None)


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_a_task(process: subprocess.Popen[str], partial: Path) -> int:
    """Kill a task in the middle of its shard and return its rank.

    A task that was seen writing may have finished when the signal comes: it is stopped first and looked at again.
    """
    while process.poll() is None:
        for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
            if task_written_by(pid, partial) is None:
                continue
            os.kill(pid, signal.SIGSTOP)
            wait_until_stopped(pid)
            rank = task_written_by(pid, partial)
            os.kill(pid, signal.SIGCONT if rank is None else signal.SIGKILL)
            if rank is not None:
                return rank
    raise AssertionError("the command ended before a task was seen at work")


def test_a_killed_task_neither_hangs_nor_hurts_the_others(slow_job: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(slow_job, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    output = tmp_path / "out"
    victim = kill_a_task(process, output / ".partial")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"task {victim}: killed by SIGKILL" in errors
    assert len(list_shards(output)) == 3
    done = subprocess.run(slow_job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list_shards(output)) == 4
