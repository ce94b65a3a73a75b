"""Average gradients over replicas while the backward pass goes on.

Gradients are accumulated in fp32, and the optimizer reads fp32. They travel in fp32 too, or in bf16: half the traffic,
at the price of rounding each sum to 8 bits. The engine's own hook (gradient_accumulator.py, `get_fp32_accum_hook`)
adds parameter by parameter to buffers filled with zeros; ours takes a bucket at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import distributed

from nanotron_zagreus.training.gradients import take_gradients


@contextlib.contextmanager
def reducing_buckets(get_group: Callable[[], Any], *, in_bf16: bool) -> Iterator[None]:
    """Inside the context, the engine registers our hook with DistributedDataParallel instead of its own.

    Args:
        get_group: gives the data-parallel group once the engine has made it.
        in_bf16: round what travels.
    """
    from nanotron import helpers

    start = _start_in_bf16 if in_bf16 else _start_in_fp32
    with mock.patch.object(helpers, "get_fp32_accum_hook", lambda *_, **__: _make_hook(get_group, start)):
        yield


def _make_hook(get_group: Callable[[], Any], start: Callable[..., Any]) -> Callable[..., Any]:
    # Without annotations: DistributedDataParallel compares them with its classes, and they are strings here.
    def hook(state, bucket):  # type: ignore[no-untyped-def]
        """Bring a bucket's gradients into the fp32 buffers and start averaging those over the replicas."""
        accumulator = state.accumulator
        sums = [accumulator.get_grad_buffer(state.param_id_to_name[id(p)]) for p in bucket.parameters()]
        take_gradients(accumulator, sums, list(bucket.gradients()))
        # The engine's repaired attribute collects handles; the trainer waits for all of them.
        accumulator.fp32_grads_allreduce_handle = start(sums, bucket, get_group())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    return hook


def _start_in_fp32(sums: list[torch.Tensor], bucket: Any, group: Any) -> Any:
    """Start averaging a bucket's sums in place; return what can be waited for."""
    from nanotron import distributed as dist

    flat = [total.view(-1) for total in sums]
    return dist.all_reduce_coalesced(flat, group=group, async_op=True, op=dist.ReduceOp.AVG)


def _start_in_bf16(sums: list[torch.Tensor], bucket: Any, group: Any) -> Any:
    """Start averaging a bucket's sums, rounded to bf16, in the bucket's own memory."""
    # The bucket is of the model's dtype, and its content has just been taken: it carries the rounded sums.
    rounded = list(bucket.gradients())
    torch._foreach_copy_(rounded, sums)
    work = distributed.all_reduce(bucket.buffer(), op=distributed.ReduceOp.AVG, group=group, async_op=True)
    return _Averaged(work, rounded, sums)


class _Averaged:
    """Waits for a bucket's average and writes it back to fp32."""

    def __init__(self, work: Any, gradients: list[torch.Tensor], sums: list[torch.Tensor]) -> None:
        self._work, self._gradients, self._sums = work, gradients, sums

    def wait(self) -> None:
        self._work.wait()
        torch._foreach_copy_(self._sums, self._gradients)
