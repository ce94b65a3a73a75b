"""Let a process in which torch.compile compiled end without a long wait for the workers that did it."""

from __future__ import annotations

import atexit
import functools
import subprocess
import sys

_WAIT_SECONDS = 5


def end_workers_at_exit() -> None:
    """Spare this process up to five minutes at its end; call it after something was compiled.

    Torch before 2.13 tells its compile workers to go when a process ends, and waits 300 s for them
    (_inductor/compile_worker/subproc_pool.py). Workers that were given no job, because they were about to start, or
    because they were started again after a minute and all kernels came from the cache, never go on Python 3.12 and
    later: the thread that would tell them has not run yet, and an ending process starts none
    (concurrent/futures/process.py, multiprocessing/queues.py). Can go with torch before 2.13 in setup.py.
    """
    if "torch._inductor.async_compile" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    """Come before torch's own handler, which its module registered when it was imported: the last goes first."""
    from torch._inductor.compile_worker import subproc_pool

    if not hasattr(subproc_pool, "_terminate_process_pool"):  # with which 2.13 ends them
        atexit.register(bound_waits)


def bound_waits(seconds: float = _WAIT_SECONDS) -> None:
    """Have torch's shutdown of its compile workers kill their parent after so long; they see that within a minute."""
    from torch._inductor import async_compile
    from torch._inductor.compile_worker.subproc_pool import SubprocPool

    for pool in list(async_compile._pool_set):
        if isinstance(pool, SubprocPool):
            pool.process.wait = functools.partial(_wait_or_kill, pool.process, seconds)  # type: ignore[method-assign]


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float, timeout: float | None = None) -> int:
    """Stand for `process.wait`, whose ``timeout`` is torch's 300 s."""
    try:
        return subprocess.Popen.wait(process, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return subprocess.Popen.wait(process, timeout=timeout)
