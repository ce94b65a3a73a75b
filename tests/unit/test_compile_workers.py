"""A process that compiled something ends soon, whatever its compile workers had to do."""

from __future__ import annotations

import atexit
import io
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
RegionalCompile(lambda x: x + 1, backend="eager")(torch.ones(4))
"""
ENDS = {
    "they have worked": "AsyncCompile.wakeup()\nAsyncCompile._ready_future.result()",
    "they are still starting": "AsyncCompile.wakeup()",
    # A training that validates after a while, with everything it compiles in the cache.
    "they were woken for nothing": """
AsyncCompile.wakeup()
AsyncCompile._ready_future.result()
AsyncCompile.process_pool().quiesce()
time.sleep(0.5)
AsyncCompile.wakeup()
time.sleep(1)
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_soon_when(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    command = [sys.executable, "-c", f"{COMPILE}{ENDS[end]}\nprint('trained', flush=True)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr and process.stdout.readline() == "trained\n"
        try:
            assert process.wait(timeout=120) == 0  # torch waits 300 s
        finally:
            process.kill()
        printed = process.stderr.read()
    assert "Traceback" not in printed and "SubprocPool" not in printed


@pytest.mark.parametrize("ends_its_workers", [False, True])
def test_only_a_torch_that_waits_for_its_workers_is_hurried(
    ends_its_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(subproc_pool, "_terminate_process_pool", None, raising=False)
    if not ends_its_workers:
        monkeypatch.delattr(subproc_pool, "_terminate_process_pool")
    compile_workers._register.__wrapped__()
    assert at_exit == ([] if ends_its_workers else [compile_workers.bound_waits])


@pytest.mark.parametrize("goes_when_told", [True, False])
def test_workers_that_do_not_go_are_killed(goes_when_told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = subproc_pool.SubprocPool(1)
    monkeypatch.setattr(async_compile, "_pool_set", {pool})
    if not goes_when_told:
        monkeypatch.setattr(subproc_pool, "_send_msg", lambda *message: None)
        monkeypatch.setattr(pool, "write_pipe", io.BytesIO())  # theirs stays open
    compile_workers.bound_waits(seconds=60 if goes_when_told else 0.1)
    started = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - started < 60
    assert pool.process.poll() == (0 if goes_when_told else -9)
