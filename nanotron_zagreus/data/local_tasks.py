"""Run a datatrove pipeline's tasks on this machine, each in a process of its own.

datatrove's own local executor runs them in a pool, which waits for ever when a worker is killed and ends all
tasks when one fails. Here a task that fails or dies takes nobody with it; logs, completion marks and
statistics stay datatrove's.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor

from nanotron_zagreus.data.tokenization_plan import available_cores

_POLL_SECONDS = 0.3
_PRELOADED = [
    "nanotron_zagreus.data.local_tasks",
    "nanotron_zagreus.data.shard_writer",
    "nanotron_zagreus.data.corpus_reader",
    "pyarrow.parquet",
    "tokenizers",
]


class LocalTasks(LocalPipelineExecutor):
    """datatrove's local executor with one process per task."""

    def run_tasks(self, on_poll: Callable[[], None] = lambda: None) -> dict[int, str]:
        """Run the tasks that are not complete, ``workers`` at a time; return why tasks failed, by rank.

        Args:
            on_poll: called a few times a second, to show progress.
        """
        waiting = self.get_incomplete_ranks()
        if not waiting:
            return {}
        self.save_executor_as_json()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        _start_fork_server()
        running: dict[int, multiprocessing.process.BaseProcess] = {}
        failures: dict[int, str] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    rank = waiting.pop(0)
                    arguments = (self, rank, max(1, available_cores() // self.workers))
                    running[rank] = context.Process(target=_run_task, args=arguments, name=f"tokenize-{rank}")
                    running[rank].start()
                multiprocessing.connection.wait([process.sentinel for process in running.values()], _POLL_SECONDS)
                for rank in [rank for rank, process in running.items() if not process.is_alive()]:
                    process = running.pop(rank)
                    process.join()
                    if process.exitcode:
                        failures[rank] = _describe(process.exitcode)
                on_poll()
        finally:
            begun = [process for process in running.values() if process.pid is not None]
            for process in begun:
                process.terminate()
            for process in begun:
                process.join()
        return failures

    def log_path(self, rank: int) -> Path:
        """Return where datatrove logs task ``rank``."""
        return Path(self.logging_dir.resolve_paths(f"logs/task_{rank:05d}.log"))


def _start_fork_server() -> None:
    """Start the process that tasks are forked from, deaf to Ctrl-C, which all of them get and the parent answers."""
    multiprocessing.resource_tracker.ensure_running()  # it unblocks the signal, and is started in any case
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run_task(executor: LocalTasks, rank: int, num_threads: int) -> None:
    """Run one task in its own process; everything it says goes to its log file."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))  # read when tokenizers first works, in this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where another part of this program had started the server before
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - datatrove logs to the console as well
    try:
        executor._run_for_rank(rank, local_rank=rank)
    except Exception:  # datatrove has written it to the task's log
        sys.exit(1)


def _die_with_parent() -> None:
    """End this process when the command that started it is killed, or a rerun would write the same files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _describe(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return "failed"
