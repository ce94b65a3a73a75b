"""Gradients between backward pass and optimizer: added up in fp32, measured and clipped, all parameters in one call.

Upstream does each of these parameter by parameter (gradient_accumulator.py `backward` and `step`, clip_grads.py): 290
small kernels. Here a step's first gradients are copied, its norm is taken, its gradients are scaled and the updated
weights are rounded in a few kernels each. Only what later micro-batches add still takes a kernel per parameter on a
GPU: torch has no fused sum of fp32 and bf16. Values are upstream's up to the order of additions.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed


def accumulate_together(accumulator: Any) -> None:
    """Let the engine's fp32 accumulator take all gradients of a micro-batch in one call; idempotent.

    Its buffers are not filled with zeros between steps: a step's first gradients are written over what they hold.
    """
    accumulator.backward = types.MethodType(_backward, accumulator)
    accumulator.zero_grad = types.MethodType(_zero_grad, accumulator)
    accumulator.step = types.MethodType(_step, accumulator)
    accumulator.is_empty = True


def take_gradients(accumulator: Any, sums: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
    """Bring ``gradients`` into ``sums``, parts of the accumulator's buffers.

    A step's first gradients are written over what is there, those of later micro-batches added.
    """
    # Only the copy has a fused kernel for two dtypes.
    (torch._foreach_copy_ if accumulator.is_empty else torch._foreach_add_)(sums, gradients)


def _zero_grad(accumulator: Any) -> None:
    for buffer in accumulator.fp32_grad_buffers.values():
        buffer["half"].grad = None
    accumulator.is_empty = True


def _backward(accumulator: Any, loss: torch.Tensor) -> None:
    loss.backward()
    buffers = accumulator.fp32_grad_buffers
    gradients = [buffer["half"].grad for buffer in buffers.values()]
    missing = [name for name, grad in zip(buffers, gradients, strict=True) if grad is None]
    assert not missing, f"no gradient for {missing}"
    if not accumulator._is_accumulation_sync_step:  # else the all-reduce's hook has taken them, bucket by bucket
        take_gradients(accumulator, [buffer["fp32_grad"] for buffer in buffers.values()], gradients)
    accumulator.is_empty = False
    for buffer in buffers.values():
        buffer["half"].grad = None
    _hand_to_optimizer(accumulator)


@torch.no_grad()
def _step(accumulator: Any) -> None:
    """Round the master weights, which the optimizer has updated, to the weights that the model computes with."""
    pairs = accumulator.parameters.values()
    torch._foreach_copy_([pair["half"] for pair in pairs], [pair["fp32"] for pair in pairs])


def _hand_to_optimizer(accumulator: Any) -> None:
    """Point each master weight's gradient at its part of the buffer; under ZeRO 1 only at this rank's slice."""
    offsets = getattr(accumulator, "param_name_to_offsets", None)
    for name, parameter in accumulator.parameters.items():
        buffer = accumulator.fp32_grad_buffers[name]["fp32_grad"]
        if offsets is None:
            parameter["fp32"].grad = buffer
        elif name in offsets:
            start, end = offsets[name]
            parameter["fp32"].grad = buffer.view(-1)[start:end]


def clip_gradients(
    named_parameters: Iterable[tuple[str, Any]],
    accumulator: Any | None,
    model_group: Any,
    max_norm: float | None,
    *,
    loss: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scale all gradients so that their global norm is at most ``max_norm``; return the fp32 norm before.

    Nothing waits for the device. A norm that is not finite makes all gradients so; `guards` skips that step.

    Args:
        named_parameters: every parameter of this rank once.
        accumulator: the engine's fp32 accumulator; None: gradients are the parameters' own.
        model_group: the ranks that hold one replica; a parameter they share counts once.
        max_norm: None: measure only.
        loss: the step's, on the ranks that have it, the same on all replicas. A loss that is not finite can have
            gradients that are (a label of probability 0): the norm is infinite then, on every rank.
    """
    rank = distributed.get_rank()
    named = list(named_parameters)
    gradients = [param.grad if accumulator is None else accumulator.get_grad_buffer(name) for name, param in named]
    counted = [
        grad
        for grad, (_, param) in zip(gradients, named, strict=True)
        if not param.is_tied or rank == param.get_tied_info().global_ranks[0]
    ]
    if counted:
        squares = torch.stack(torch._foreach_norm(counted, 2, dtype=torch.float32)).square().sum()
    else:
        squares = torch.zeros((), dtype=torch.float32, device=gradients[0].device)
    if loss is not None:
        squares = torch.where(torch.isfinite(loss), squares, torch.inf)
    distributed.all_reduce(squares, group=model_group)
    norm = squares.sqrt()
    if max_norm is not None:
        # clamp instead of a branch, which would wait for the device
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        if accumulator is None:
            torch._foreach_mul_(gradients, factor)
        else:
            accumulator._contiguous_fp32_grad_buffer.mul_(factor)
    return norm
