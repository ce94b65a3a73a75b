"""From a chunk's hidden states to each row's loss and to the gradient of its logits, the matrix products aside.

Two ways with one result. `plain_chunk` calls torch's operations one by one: quickest on a CPU, where a chunk stays in
its caches. On a GPU each of them takes the chunk through memory: in bf16 some 36 bytes an element (conversion 6,
log-softmax up to 16, exponential 8, scaling 6). `fused_chunk` reads the logits in their own dtype once for the sum, and
once more to write the gradient in their place, 6 bytes, by two functions that torch.compile turns into kernels.
Collectives stay outside of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import distributed

from nanotron_zagreus.model.regional_compile import RegionalCompile


@dataclass(frozen=True)
class Targets:
    """What rows should predict, seen from this rank's columns of the vocabulary."""

    columns: torch.Tensor
    """int64 `[rows, 1]`: the label's column here; 0 where it is another rank's."""
    mine: torch.Tensor
    """bool `[rows]`: whether the label's column is here."""
    token_weights: torch.Tensor
    """fp32 `[rows]`: each row's weight in the loss."""

    def __getitem__(self, rows: slice) -> Targets:
        """Return those of some rows."""
        return Targets(self.columns[rows], self.mine[rows], self.token_weights[rows])


def targets_of(labels: torch.Tensor, token_weights: torch.Tensor, first_id: int, num_columns: int) -> Targets:
    """Return where the columns of int64 ``labels`` `[rows]` are, this rank having ``num_columns`` from ``first_id``."""
    mine = (labels >= first_id) & (labels < first_id + num_columns)
    return Targets(torch.where(mine, labels - first_id, 0)[:, None], mine, token_weights)


def plain_chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: Targets,
    group: distributed.ProcessGroup | None,
    wants_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (fp32 `[rows]`: this rank's part of the losses, the logits' gradient or None).

    Args:
        hidden: `[rows, hidden_size]`.
        weight: `[local_vocab, hidden_size]`.
        targets: of these rows.
        group: the tensor-parallel group; None: ``weight`` is the whole vocabulary.
        wants_gradient: whether to make `[rows, local_vocab]` in the weight's dtype: (softmax - one-hot) x token weight.
    """
    logits = hidden @ weight.t()
    if group is None:
        log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    else:
        log_probabilities = logits.to(torch.float32)
        log_sum = _log_sum_over_ranks(log_probabilities.logsumexp(dim=-1), group)
        log_probabilities.sub_(log_sum[:, None])
    del logits
    losses = -_at(log_probabilities, targets)
    if not wants_gradient:
        return losses, None
    # In the memory of the logarithm.
    grad = log_probabilities.exp_()
    if grad.shape[-1]:
        grad.scatter_add_(1, targets.columns, torch.where(targets.mine, -1.0, 0.0)[:, None])
    return losses, torch.mul(grad, targets.token_weights[:, None], out=torch.empty_like(grad, dtype=weight.dtype))


def fused_chunk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: Targets,
    group: distributed.ProcessGroup | None,
    wants_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the same as :func:`plain_chunk`, in compiled regions."""
    logits = hidden @ weight.t()
    log_sum_of, make_gradient = compiled_regions()
    has_columns = logits.shape[-1] > 0
    log_sum = log_sum_of(logits) if has_columns else logits.new_full(logits.shape[:1], -torch.inf, dtype=torch.float32)
    if group is not None:
        log_sum = _log_sum_over_ranks(log_sum, group)
    if not has_columns:
        return torch.zeros_like(log_sum), logits if wants_gradient else None
    losses = torch.where(targets.mine, log_sum - logits.gather(1, targets.columns).squeeze(1), 0.0)
    if not wants_gradient:
        return losses, None
    make_gradient(logits, log_sum, targets.columns, targets.mine, targets.token_weights)
    return losses, logits


def fuses_on(device: torch.device) -> bool:
    """Tell whether :func:`fused_chunk` is the way to take: on a GPU, unless its regions cannot be compiled there."""
    return device.type == "cuda" and not any(region.is_eager for region in compiled_regions())


@functools.cache
def compiled_regions() -> tuple[RegionalCompile, RegionalCompile]:
    """Return this process's two compiled functions, nothing compiled before the first call."""
    what = "zagreus.cross_entropy: chunks"
    return RegionalCompile(_log_sum, what=what), RegionalCompile(_make_gradient, what=what)


def _log_sum(logits: torch.Tensor) -> torch.Tensor:
    # As inductor recognises it: maximum and sum of exponentials in one pass over the logits; logsumexp takes two.
    logits = logits.to(torch.float32)
    highest = logits.amax(dim=-1, keepdim=True)
    return (highest + (logits - highest).exp().sum(dim=-1, keepdim=True).log()).squeeze(-1)


def _make_gradient(
    logits: torch.Tensor, log_sum: torch.Tensor, columns: torch.Tensor, mine: torch.Tensor, token_weights: torch.Tensor
) -> None:
    """Turn ``logits``, half a gigabyte in a chunk, into (softmax - one-hot) x token weight in place, rounded once."""
    softmax = (logits.to(torch.float32) - log_sum[:, None]).exp()
    is_label = (torch.arange(logits.shape[-1], device=logits.device) == columns) & mine[:, None]
    logits.copy_((softmax - is_label.to(torch.float32)) * token_weights[:, None])


def _log_sum_over_ranks(log_sums: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
    """Return fp32 `[rows]`: log(sum over ranks of exp(log_sums)); a rank without columns brings -inf."""
    gathered = log_sums.new_empty(group.size() * log_sums.numel())
    distributed.all_gather_into_tensor(gathered, log_sums, group=group)
    return gathered.view(group.size(), -1).logsumexp(dim=0)


def _at(values: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return `[rows]`: each row's value in its label's column, 0 where that is another rank's."""
    if not values.shape[-1]:
        return values.new_zeros(values.shape[0])
    return torch.where(targets.mine, values.gather(1, targets.columns).squeeze(1), 0.0)
