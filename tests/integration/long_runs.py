"""Start a launch that goes on until a test stops it, and find its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from tiny_runs import launch_command, launch_environment, read_losses


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
