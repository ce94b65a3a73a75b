"""The last block: from hidden states to the training loss, or to logits."""

from __future__ import annotations

from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import (
    differentiable_all_gather,
    differentiable_identity,
)
from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear

from nanotron_zagreus.model.cross_entropy import cross_entropy, sharded_cross_entropy
from nanotron_zagreus.model.linear_cross_entropy import linear_cross_entropy


class LanguageModelHead(TensorParallelColumnLinear):
    """Projects on the vocabulary and takes the loss in one place, so that no other block ever holds logits."""

    def __init__(
        self, hidden_size: int, padded_vocab_size: int, vocab_size: int, pg: Any, mode: Any, chunked: bool = True
    ) -> None:
        super().__init__(hidden_size, padded_vocab_size, pg=pg, mode=mode, bias=False)
        self.chunked = chunked
        self.sequence_first = _divides_sequence(mode, pg)
        rows_per_rank = padded_vocab_size // pg.size()
        self.first_id = dist.get_rank(pg) * rows_per_rank
        # Padded rows belong to no token: they take no part in the softmax.
        self.num_local_tokens = max(0, min(rows_per_rank, vocab_size - self.first_id))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[batch, sequence, local_vocab]`, local to this TP rank, without padded columns.

        Args:
            x: `[batch, sequence, hidden_size]`. Where the model is sequence-first, both have the first two dimensions
                exchanged, and ``x`` is this rank's part of the sequence.
        """
        return super().forward(x)[..., : self.num_local_tokens]

    def forward(
        self,
        x: torch.Tensor,
        label_ids: torch.Tensor,
        label_mask: torch.Tensor,
        num_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return {"loss": fp32 scalar}: the sum over the labels that ``label_mask`` keeps, over ``num_labels``.

        Args:
            x: as for :meth:`logits`.
            label_ids: int64 `[batch, sequence]`.
            label_mask: bool `[batch, sequence]`.
            num_labels: fp32 scalar; None: the labels that this mask keeps, at least 1, so that an empty mask
                gives 0, not NaN.
        """
        if self.sequence_first:
            label_ids, label_mask = label_ids.transpose(0, 1), label_mask.transpose(0, 1)
        labels, mask = label_ids.flatten(), label_mask.flatten()
        if num_labels is None:
            num_labels = mask.sum().clamp(min=1)
        return {"loss": (self._chunked_loss if self.chunked else self._plain_loss)(x, labels, mask, num_labels)}

    def _plain_loss(
        self, x: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, num_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss from all logits at once: the reference."""
        logits = self.logits(x).flatten(0, 1)
        if self.pg.size() == 1:
            losses = cross_entropy(logits, labels)
        else:
            losses = sharded_cross_entropy(logits, labels, self.first_id, self.pg)
        return (losses * mask.to(losses.dtype)).sum() / num_labels

    def _chunked_loss(
        self, x: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, num_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the same without ever holding all logits."""
        gathers = self.mode is TensorParallelLinearMode.REDUCE_SCATTER
        hidden = (differentiable_all_gather if gathers else differentiable_identity)(x, self.pg).flatten(0, 1)
        # A slice would cost a copy of the gradient: taken only where there are padded rows.
        padded = self.num_local_tokens < self.weight.shape[0]
        weight = self.weight[: self.num_local_tokens] if padded else self.weight
        token_weights = mask.to(torch.float32) / num_labels
        return linear_cross_entropy(hidden, weight, labels, token_weights, first_id=self.first_id, group=self.pg)


def tp_mode_of(parallel_config: Any) -> TensorParallelLinearMode:
    """Return the tensor-parallel mode of the engine's parallelism section."""
    return parallel_config.tp_mode if parallel_config is not None else TensorParallelLinearMode.ALL_REDUCE


def is_sequence_first(parallel_config: Any, tp_pg: Any) -> bool:
    """Tell whether hidden states are `[sequence, batch, hidden_size]` rather than `[batch, sequence, hidden_size]`."""
    return _divides_sequence(tp_mode_of(parallel_config), tp_pg)


def _divides_sequence(mode: TensorParallelLinearMode, tp_pg: Any) -> bool:
    return mode is TensorParallelLinearMode.REDUCE_SCATTER and tp_pg.size() > 1
