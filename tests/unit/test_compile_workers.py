"""A process that compiled something ends at once, whatever its compile workers had to do."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from torch._inductor import async_compile
from torch._inductor.compile_worker import subproc_pool

from nanotron_zagreus.model import compile_workers

# What a training does that validates after a while, with everything it compiles in the cache.
WOKEN_WITHOUT_A_JOB = """
import time, torch
from nanotron_zagreus.model.regional_compile import RegionalCompile
RegionalCompile(lambda x: x + 1)(torch.ones(4))
from torch._inductor.async_compile import AsyncCompile
AsyncCompile.wakeup()
AsyncCompile._ready_future.result()
AsyncCompile.process_pool().quiesce()
time.sleep(0.5)
AsyncCompile.wakeup()
time.sleep(1)
print("trained", flush=True)
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, g++ is not here")
def test_workers_that_were_woken_for_nothing_keep_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    command = [sys.executable, "-c", WOKEN_WITHOUT_A_JOB]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


class Pool:
    """Stands for torch's pool of workers."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], Any]] = []

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        self.jobs.append(job)
        done: Future[Any] = Future()
        done.set_result(job())
        return done


@pytest.mark.parametrize("ends_its_workers", [False, True])
def test_a_torch_that_does_not_end_its_workers_has_them_work_once(
    ends_its_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, at_exit = Pool(), []
    monkeypatch.setattr(async_compile, "_pool_set", {pool})
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(subproc_pool, "_terminate_process_pool", None, raising=False)
    if not ends_its_workers:
        monkeypatch.delattr(subproc_pool, "_terminate_process_pool")
    compile_workers._register.__wrapped__()
    for handler in at_exit:
        handler()
    assert len(pool.jobs) == (0 if ends_its_workers else 1)
