"""Build the training model on this rank: its pipeline blocks, tied parameters, and the replicas around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nanotron.models.base import build_model, check_model_has_grad
from nanotron.parallel.parameters import sanity_check
from nanotron.trainer import mark_tied_parameters
from torch.nn.parallel import DistributedDataParallel


def build_training_model(model_builder: Callable[[], Any], config: Any, parallel_context: Any) -> Any:
    """Return the model with uninitialised parameters, wrapped for data parallelism where that is needed.

    Replicas are wrapped under ZeRO-1 too, so that gradients travel while the backward pass goes on. Upstream 0.4 does
    not do so there when it accumulates in fp32 (trainer.py:609), for its hook would divide the sums; ours does not
    (`gradient_reduction`).

    Args:
        model_builder: builds the model; called with the engine's default device and dtype set.
        config: the engine's configuration.
        parallel_context: the engine's process groups.
    """
    model = build_model(parallel_context=parallel_context, dtype=config.model.dtype, model_builder=model_builder)
    mark_tied_parameters(model=model, parallel_context=parallel_context, parallel_config=config.parallelism)
    if parallel_context.dp_pg.size() > 1:
        check_model_has_grad(model=model, parallel_context=parallel_context)
        # The model has no buffers that DDP would have to broadcast. Gradients become views of its buckets: they are not
        # kept twice when they travel, and not copied back.
        model = DistributedDataParallel(
            model,
            process_group=parallel_context.dp_pg,
            bucket_cap_mb=config.model.ddp_bucket_cap_mb,
            gradient_as_bucket_view=True,
            **_copies_in_batches(),
        )
    sanity_check(root_module=model)
    return model


def _copies_in_batches() -> dict[str, Any]:
    """Return what lets DDP fill a bucket by a kernel or two instead of one per parameter, where torch has it (2.13)."""
    name = "batched_grad_copy"
    return {name: True} if name in inspect.signature(DistributedDataParallel.__init__).parameters else {}
