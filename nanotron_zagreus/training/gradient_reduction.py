"""Average gradients over replicas in bf16: half the traffic of fp32, at the price of rounding each sum to 8 bits.

Gradients are still accumulated in fp32, and the optimizer reads fp32; only what travels is rounded. The engine reduces
fp32 buffers (gradient_accumulator.py, `get_fp32_accum_hook`), bucket by bucket while the backward pass goes on,
or all at once under ZeRO 1; both are replaced here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import distributed


@contextlib.contextmanager
def buckets_in_bf16(get_group: Callable[[], Any], *, wanted: bool) -> Iterator[None]:
    """Inside the context, the engine registers our hook with DistributedDataParallel instead of its own.

    Args:
        get_group: gives the data-parallel group once the engine has made it.
        wanted: False: change nothing.
    """
    if not wanted:
        yield
        return
    from nanotron import helpers

    with mock.patch.object(helpers, "get_fp32_accum_hook", lambda *_, **__: _make_hook(get_group)):
        yield


def reduce_all_in_bf16(accumulator: Any, group: Any) -> None:
    """Average the accumulator's whole fp32 buffer over ``group``, rounded to bf16 on the way."""
    if group.size() == 1:
        return
    buffer = accumulator._contiguous_fp32_grad_buffer
    rounded = buffer.to(torch.bfloat16)
    distributed.all_reduce(rounded, op=distributed.ReduceOp.AVG, group=group)
    buffer.copy_(rounded)


def _make_hook(get_group: Callable[[], Any]) -> Callable[..., Any]:
    # Without annotations: DistributedDataParallel compares them with its classes, and they are strings here.
    def hook(state, bucket):  # type: ignore[no-untyped-def]
        """Add a bucket's gradients to the fp32 buffers and start averaging the sums in the bucket's own memory."""
        names = [state.param_id_to_name[id(parameter)] for parameter in bucket.parameters()]
        sums = [state.accumulator.get_grad_buffer(name) for name in names]
        gradients = list(bucket.gradients())
        torch._foreach_add_(sums, gradients)
        # The bucket is of the model's dtype, and its content has just been added: it carries the rounded sums.
        torch._foreach_copy_(gradients, sums)
        work = distributed.all_reduce(bucket.buffer(), op=distributed.ReduceOp.AVG, group=get_group(), async_op=True)
        # The engine's repaired attribute collects handles; the trainer waits for all of them.
        state.accumulator.fp32_grads_allreduce_handle = _Averaged(work, gradients, sums)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    return hook


class _Averaged:
    """Waits for a bucket's average and writes it back to fp32."""

    def __init__(self, work: Any, gradients: list[torch.Tensor], sums: list[torch.Tensor]) -> None:
        self._work, self._gradients, self._sums = work, gradients, sums

    def wait(self) -> None:
        self._work.wait()
        torch._foreach_copy_(self._sums, self._gradients)
