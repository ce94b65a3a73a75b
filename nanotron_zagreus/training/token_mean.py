"""The loss of a step as the mean over its tokens, however unevenly masks spread them over micro-batches and replicas.

The engine divides each micro-batch's loss by their number and averages gradients over the replicas, and upstream
takes a masked mean per micro-batch before: a label in a sparsely labelled micro-batch then weighs more than others.
Here every micro-batch divides its sum by the same number, the step's labels over micro-batches x replicas, and the
engine's two means make the mean over the step's labels of it. With full masks the divisor is what it would be anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def with_token_mean(micro_batches: list[dict[str, torch.Tensor]], dp_group: Any) -> list[dict[str, torch.Tensor]]:
    """Return the step's micro-batches with `num_labels`, what each divides its sum of losses by.

    All ranks of ``dp_group`` call it; nothing waits for the device.

    Args:
        micro_batches: this rank's of one step, each with bool `label_mask` `[micro_batch_size, sequence_length]`.
        dp_group: the data-parallel group.

    Returns:
        the same batches with fp32 scalar `num_labels`: labels of the step, at least 1, over the number of
        micro-batches of all replicas.
    """
    count = torch.stack([batch["label_mask"].sum() for batch in micro_batches]).sum()
    distributed.all_reduce(count, group=dp_group)
    # fp64: a step may have more labels than fp32 counts exactly.
    mean = count.clamp(min=1).to(torch.float64) / (len(micro_batches) * dp_group.size())
    num_labels = mean.to(torch.float32)
    return [{**batch, "num_labels": num_labels} for batch in micro_batches]
