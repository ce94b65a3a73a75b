"""Cross entropy of next-token prediction, with the vocabulary whole or divided over tensor-parallel ranks.

`cross_entropy` is the plain reference. `sharded_cross_entropy` computes the same from each rank's
columns of the logits, exchanging three numbers per token instead of the logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return fp32 `[tokens]`: -log softmax(logits)[label].

    Args:
        logits: `[tokens, vocab]`, any float dtype.
        labels: int64 `[tokens]`.
    """
    return F.cross_entropy(logits.float(), labels, reduction="none")


def sharded_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, first_id: int, group: distributed.ProcessGroup
) -> torch.Tensor:
    """Return what :func:`cross_entropy` would for the logits of all ranks side by side.

    Args:
        logits: this rank's `[tokens, local_vocab]`; without padded columns.
        labels: int64 `[tokens]`, global ids, the same on every rank.
        first_id: global id of this rank's first column.
        group: the tensor-parallel group.
    """
    return _ShardedCrossEntropy.apply(logits, labels, first_id, group)


class _ShardedCrossEntropy(torch.autograd.Function):
    """loss = log(sum over ranks of sum exp(z - m)) + m - z[label], with m the maximum over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, first_id: int, group: distributed.ProcessGroup
    ) -> torch.Tensor:
        z = logits.float()
        maximum = z.amax(dim=-1) if z.shape[-1] else z.new_full((z.shape[0],), -torch.inf)
        distributed.all_reduce(maximum, op=distributed.ReduceOp.MAX, group=group)
        z = z - maximum[:, None]
        mine = (labels >= first_id) & (labels < first_id + z.shape[-1])
        columns = torch.where(mine, labels - first_id, 0)
        target = z.gather(1, columns[:, None]).squeeze(1) if z.shape[-1] else torch.zeros_like(maximum)
        target = torch.where(mine, target, 0.0)
        exponentials = z.exp()
        sums = torch.stack((exponentials.sum(dim=-1), target))
        distributed.all_reduce(sums, group=group)
        total, target = sums[0], sums[1]
        ctx.save_for_backward(exponentials / total[:, None], columns, mine)
        ctx.dtype = logits.dtype
        return total.log() - target

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        probabilities, columns, mine = ctx.saved_tensors
        gradient = probabilities * grad[:, None]
        if gradient.shape[-1]:
            gradient.scatter_add_(1, columns[:, None], torch.where(mine, -grad, 0.0)[:, None])
        return gradient.to(ctx.dtype), None, None, None
