"""Tasks in processes of their own: how many threads each may use, and who answers Ctrl-C."""

import multiprocessing.forkserver
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from nanotron_zagreus.data import local_tasks


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("7", "7")])
def test_a_task_uses_its_share_of_the_cores_unless_told_otherwise(given, expected, monkeypatch):
    """Or N tasks of tokenizers would start N times as many threads as there are cores."""
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("RAYON_NUM_THREADS", given)
    monkeypatch.setattr(local_tasks.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(local_tasks.sys, "stderr", local_tasks.sys.stderr)
    seen = []

    class Executor:
        def _run_for_rank(self, rank, local_rank):
            seen.append(os.environ["RAYON_NUM_THREADS"])

    local_tasks._run_task(Executor(), 0, 3)
    os.environ.pop("RAYON_NUM_THREADS", None)
    assert seen == [expected]


def test_ctrl_c_while_a_task_starts_is_ctrl_c(tmp_path, monkeypatch):
    """The first start waits about a second for the process that tasks are forked from."""

    def interrupted(process):
        raise KeyboardInterrupt

    monkeypatch.setattr(ForkServerProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local_tasks.LocalTasks([], tasks=1, workers=1, logging_dir=str(tmp_path)).run_tasks()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to read a process's signals from")
def test_ctrl_c_does_not_reach_the_process_that_tasks_are_forked_from(monkeypatch):
    """It would end with a traceback of its own while it still imports what the tasks need."""
    server = multiprocessing.forkserver.ForkServer()
    monkeypatch.setattr(local_tasks.multiprocessing.forkserver, "ensure_running", server.ensure_running)
    local_tasks._start_fork_server()
    try:
        lines = Path(f"/proc/{server._forkserver_pid}/status").read_text().splitlines()
        blocked = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
        assert blocked >> signal.SIGINT - 1 & 1
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        server._stop()
