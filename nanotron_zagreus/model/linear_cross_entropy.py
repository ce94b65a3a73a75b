"""Projection on the vocabulary and cross entropy in one, a few rows at a time: a batch's logits never exist.

The plain path (`cross_entropy`) holds all logits and their gradient in the model's dtype and both in fp32, 25 GB at
4 x 4096 tokens and 128,256 words. Here each chunk's logits become their own gradient at once, and both gradient
products are taken in the forward pass: three matrix products in all, where recomputing logits in the backward
pass would take four. What waits for the backward pass is the hidden states' gradient and one fp32 matrix of the
weight's size per micro-batch in flight. Each token's weight in the loss is multiplied in before the logits' gradient is
rounded, as autograd would do it; all that the backward pass does is to scale both by the loss's own gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from nanotron_zagreus.model.logits_chunk import Targets, fused_chunk, fuses_on, plain_chunk, targets_of

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
        gradients = None
        if wants_gradients:
            gradients = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        targets = targets_of(labels, token_weights, first_id, weight.shape[0])
        losses = torch.empty_like(token_weights)
        for start in range(0, hidden.shape[0], rows_per_chunk):
            rows = slice(start, start + rows_per_chunk)
            part = None if gradients is None else (gradients[0][rows], gradients[1])
            losses[rows] = _add_chunk(hidden[rows], weight, targets[rows], group, part)
        if group is not None:
            distributed.all_reduce(losses, group=group)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
            ctx.dtype = weight.dtype
        return torch.where(token_weights != 0, losses * token_weights, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # Scaled and rounded in one pass: no second fp32 matrix of the weight's size.
        scaled_weight = torch.mul(grad_weight, grad, out=torch.empty_like(grad_weight, dtype=ctx.dtype))
        return (grad_hidden * grad).to(grad_hidden.dtype), scaled_weight, None, None, None, None, None, None


def _add_chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: Targets,
    group: distributed.ProcessGroup | None,
    gradients: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Return this rank's part of the rows' losses; write the gradient of the hidden states, and add to the weight's,
    where there are such.

    What is as large as the chunk's logits is gone on return, before the next chunk's are made.
    """
    chunk = fused_chunk if fuses_on(hidden.device) else plain_chunk
    losses, grad = chunk(hidden, weight, targets, group, gradients is not None)
    if gradients is not None:
        assert grad is not None
        grad_hidden, grad_weight = gradients
        torch.mm(grad, weight, out=grad_hidden)
        _add_product(grad_weight, grad.t(), hidden)
    return losses


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left right to fp32 ``total`` without rounding the product: a sum of rounded ones drifts from the plain path.

    Only CUDA multiplies bf16 into fp32; elsewhere the factors are converted.
    """
    if left.dtype is torch.float32 or not left.is_cuda:
        total.addmm_(left.to(torch.float32), right.to(torch.float32))
    elif _adds_in_place(left.device, left.dtype):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += torch.mm(left, right, out_dtype=torch.float32)


@functools.cache
def _adds_in_place(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell, by trying, whether torch adds a 16-bit product to an fp32 matrix in place.

    Releases differ: 2.13 has `addmm` with out_dtype, whose CUDA code allows for an output that is also the summand
    (aten/src/ATen/native/cuda/Blas.cpp, addmm_out_cuda_impl); the first ones that had it wanted the summand in 16 bits.
    """
    ones, total = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17).all())
