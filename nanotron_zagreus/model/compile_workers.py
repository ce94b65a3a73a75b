"""Let the processes in which torch.compile compiles end together with the one that started them."""

from __future__ import annotations

import atexit
import functools
import sys


def end_with_this_process() -> None:
    """Spare this process five minutes at its end; call it after something was compiled.

    Torch before 2.13 tells its workers to go when a process ends, and waits 300 s for them
    (_inductor/compile_worker/subproc_pool.py). Workers that have only just started, or were started again after a
    minute of nothing to do and for kernels that all came from the cache, have had no job. Python 3.12 and later cannot
    pass on the word then: the thread that would has yet to start, and an ending process starts none
    (concurrent/futures/process.py, multiprocessing/queues.py). So they are ended, as 2.13 does.
    """
    if "torch._inductor.async_compile" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    """Come before torch's own handler, which its module registered when it was imported: the last goes first."""
    from torch._inductor.compile_worker import subproc_pool

    if not hasattr(subproc_pool, "_terminate_process_pool"):  # what 2.13 does it by
        atexit.register(end_workers)


def end_workers() -> None:
    """End torch's process of compile workers; its forks see that it is gone (compile_worker/utils.py)."""
    from torch._inductor import async_compile
    from torch._inductor.compile_worker.subproc_pool import SubprocPool

    for pool in list(async_compile._pool_set):
        if isinstance(pool, SubprocPool) and pool.running:
            pool.running = False  # else torch would take the end for an accident
            pool.process.kill()
            pool.process.wait()
