"""Let the processes in which torch.compile compiles end together with the one that started them."""

from __future__ import annotations

import atexit
import functools
import sys
from concurrent import futures

_WAIT_SECONDS = 60


def end_with_this_process() -> None:
    """Spare this process five minutes at its end; call it after something was compiled.

    Torch before 2.13 tells its workers to go when a process ends, and waits 300 s for them
    (_inductor/compile_worker/subproc_pool.py). Workers started, or started again after a minute of nothing to do, for
    kernels that all came from the cache have had no job; Python 3.12 and later cannot pass on the word then, because
    the thread that would has yet to start (multiprocessing/queues.py). So they get a job.
    """
    if "torch._inductor.async_compile" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    """Come before torch's own handler, which its module registered when it was imported: the last goes first."""
    from torch._inductor.compile_worker import subproc_pool

    if not hasattr(subproc_pool, "_terminate_process_pool"):  # what 2.13 ends them by
        atexit.register(give_each_pool_a_job)


def give_each_pool_a_job() -> None:
    """Have each of torch's pools of compile workers do nothing once, and wait for it."""
    from torch._inductor import async_compile

    jobs = [pool.submit(async_compile.AsyncCompile._get_ready) for pool in list(async_compile._pool_set)]
    futures.wait(jobs, timeout=_WAIT_SECONDS)
