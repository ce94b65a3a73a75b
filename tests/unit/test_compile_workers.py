"""A process that compiled something ends at once, whatever its compile workers had to do."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import time

import pytest
from torch._inductor import async_compile
from torch._inductor.compile_worker import subproc_pool

from nanotron_zagreus.model import compile_workers

COMPILE = """
import time, torch
from torch._inductor.async_compile import AsyncCompile
from nanotron_zagreus.model.regional_compile import RegionalCompile
RegionalCompile(lambda x: x + 1)(torch.ones(4))
pool = AsyncCompile.process_pool()
"""
ENDS = {
    "they are still starting": "AsyncCompile.wakeup()",
    # A training that validates after a while, with everything it compiles in the cache.
    "they were woken for nothing": """
AsyncCompile.wakeup()
AsyncCompile._ready_future.result()
pool.quiesce()
time.sleep(0.5)
AsyncCompile.wakeup()
time.sleep(1)
""",
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, g++ is not here")
@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_with_its_workers_when(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    command = [sys.executable, "-c", f"{COMPILE}{ENDS[end]}\nprint('trained', flush=True)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "Traceback" not in done.stderr and "SubprocPool" not in done.stderr


@pytest.mark.parametrize("ends_its_workers", [False, True])
def test_a_torch_that_waits_for_its_workers_has_them_ended(
    ends_its_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(subproc_pool, "_terminate_process_pool", None, raising=False)
    if not ends_its_workers:
        monkeypatch.delattr(subproc_pool, "_terminate_process_pool")
    compile_workers._register.__wrapped__()
    assert at_exit == ([] if ends_its_workers else [compile_workers.end_workers])


def test_ended_workers_are_gone_and_torch_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = subproc_pool.SubprocPool(1)
    monkeypatch.setattr(async_compile, "_pool_set", {pool})
    assert pool.process.poll() is None
    compile_workers.end_workers()
    assert pool.process.poll() is not None
    started = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - started < 60
