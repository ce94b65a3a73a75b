"""Projection on the vocabulary and cross entropy in one, a few rows at a time: a batch's logits never exist.

The plain path (`cross_entropy`) keeps one copy of all logits in the model's dtype and two in fp32, 21 GB at
4 x 4096 tokens and 128,256 words. Here each chunk's logits become their own gradient at once, and both gradient
products are taken in the forward pass: three matrix products in all, where recomputing logits in the backward
pass would take four. What waits for the backward pass is the hidden states' gradient and one fp32 matrix of the
weight's size per micro-batch in flight. Each token's weight in the loss is multiplied in before the logits' gradient is
rounded, as autograd would do it; all that the backward pass does is to scale both by the loss's own gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed
from torch.autograd.function import once_differentiable

ROWS_PER_CHUNK = {"cuda": 2048, "cpu": 256}
"""Tokens whose logits exist at once. On an accelerator 2,048 rows of 128,256 words take 1 GiB in fp32, an eighth of a
4 x 4096 micro-batch, and each product still does 640 FLOPs per byte it moves (bf16, hidden size 960), more than the
200 to 300 from which on the arithmetic, not the memory, sets the pace. A CPU is quickest while a chunk stays in its
caches (`benchmarks/cross_entropy.py`)."""


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    token_weights: torch.Tensor,
    *,
    first_id: int = 0,
    group: distributed.ProcessGroup | None = None,
    rows_per_chunk: int | None = None,
) -> torch.Tensor:
    """Return the fp32 sum over tokens of token_weights x -log softmax(hidden weight^T)[label].

    Args:
        hidden: `[tokens, hidden_size]`, the same on every tensor-parallel rank; the gradient it gets is the part
            of this rank's rows of ``weight``.
        weight: `[local_vocab, hidden_size]`, this rank's rows, without padded ones.
        labels: int64 `[tokens]`, global ids, the same on every rank.
        token_weights: fp32 `[tokens]`; where it is 0 the loss takes no part, be it infinite.
        first_id: global id of this rank's first row.
        group: the tensor-parallel group; None or a group of one: ``weight`` is the whole vocabulary.
        rows_per_chunk: tokens whose logits exist at once; None: ROWS_PER_CHUNK of the device.
    """
    if group is not None and group.size() == 1:
        group = None
    rows = rows_per_chunk or ROWS_PER_CHUNK.get(hidden.device.type, ROWS_PER_CHUNK["cuda"])
    wants_gradients = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden, weight, labels, token_weights, first_id, group, rows, wants_gradients)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        token_weights: torch.Tensor,
        first_id: int,
        group: distributed.ProcessGroup | None,
        rows_per_chunk: int,
        wants_gradients: bool,
    ) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if wants_gradients:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], rows_per_chunk):
            rows = slice(start, start + rows_per_chunk)
            log_probabilities, columns, mine = _log_softmax(hidden[rows] @ weight.t(), labels[rows], first_id, group)
            losses = -_at(log_probabilities, columns, mine)
            if group is not None:
                distributed.all_reduce(losses, group=group)
            counts = token_weights[rows]
            loss += torch.where(counts != 0, losses * counts, 0.0).sum()
            if wants_gradients:
                # softmax - one-hot, in the memory of its logarithm
                grad = log_probabilities.exp_()
                if grad.shape[-1]:
                    grad.scatter_add_(1, columns, torch.where(mine, -1.0, 0.0)[:, None])
                grad = torch.mul(grad, counts[:, None], out=torch.empty_like(grad, dtype=weight.dtype))
                torch.mm(grad, weight, out=grad_hidden[rows])
                _add_product(grad_weight, grad.t(), hidden[rows])
        if wants_gradients:
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # Scaled and rounded in one pass: no second fp32 matrix of the weight's size.
        scaled_weight = torch.mul(grad_weight, grad, out=torch.empty_like(grad_weight, dtype=ctx.dtype))
        return (grad_hidden * grad).to(grad_hidden.dtype), scaled_weight, None, None, None, None, None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left right to fp32 ``total`` without rounding the product: a sum of rounded ones drifts from the plain path.

    Only CUDA multiplies bf16 into fp32; elsewhere the factors are converted.
    """
    if left.dtype is not torch.float32 and left.is_cuda:
        total += torch.mm(left, right, out_dtype=torch.float32)
    else:
        total.addmm_(left.to(torch.float32), right.to(torch.float32))


def _log_softmax(
    logits: torch.Tensor, labels: torch.Tensor, first_id: int, group: distributed.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (fp32 log softmax `[rows, local_vocab]`, labels' local columns `[rows, 1]`, which are here `[rows]`)."""
    mine = (labels >= first_id) & (labels < first_id + logits.shape[-1])
    columns = torch.where(mine, labels - first_id, 0)[:, None]
    if group is None:
        return F.log_softmax(logits, dim=-1, dtype=torch.float32), columns, mine
    logits = logits.to(torch.float32)
    log_sum = _log_sum_over_ranks(logits.logsumexp(dim=-1), group)
    return logits.sub_(log_sum[:, None]), columns, mine


def _log_sum_over_ranks(log_sums: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
    """Return fp32 `[rows]`: log(sum over ranks of exp(log_sums)); a rank without columns brings -inf."""
    gathered = log_sums.new_empty(group.size() * log_sums.numel())
    distributed.all_gather_into_tensor(gathered, log_sums, group=group)
    return gathered.view(group.size(), -1).logsumexp(dim=0)


def _at(values: torch.Tensor, columns: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """Return `[rows]`: each row's value in its column, 0 where the column is another rank's."""
    if not values.shape[-1]:
        return values.new_zeros(values.shape[0])
    return torch.where(mine, values.gather(1, columns).squeeze(1), 0.0)
