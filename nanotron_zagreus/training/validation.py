"""Loss and perplexity on the held-out windows of each source; touches nothing that training uses."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nanotron import distributed as dist

from nanotron_zagreus.data.batch import MicroBatch, document_offsets, engine_batch
from nanotron_zagreus.data.mixture import Mixture, SampleId, Samples
from nanotron_zagreus.data.open_shards import OpenShards


@dataclass(frozen=True, kw_only=True)
class SourceLoss:
    """The validation result of one source."""

    source: str
    loss: float
    """Mean cross entropy per token in nats."""
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


def validation_windows(mixture: Mixture, num_windows: int, rows: int) -> dict[int, list[SampleId]]:
    """Return source -> held-out windows to score: equally many of each, in whole groups of ``rows``.

    Args:
        mixture: the run's mixture; its held-out windows are outside every epoch.
        num_windows: windows that a validation may score, over all sources.
        rows: windows scored at once over all replicas (dp x micro_batch_size).
    """
    by_source: dict[int, list[SampleId]] = {}
    for sample in mixture.held_out():
        by_source.setdefault(sample.source, []).append(sample)
    share = num_windows // max(1, len(by_source)) // rows * rows
    return {source: ids[: max(rows, share)] for source, ids in by_source.items()}


@torch.no_grad()
def validate(trainer: Any, mixture: Mixture) -> list[SourceLoss]:
    """Score the held-out windows; every rank calls it, the ranks of the last pipeline stage get the result."""
    config = trainer.run.tokens
    dp_pg = trainer.parallel_context.dp_pg
    rows = dp_pg.size() * config.micro_batch_size
    first_row = dist.get_rank(dp_pg) * config.micro_batch_size
    results = []
    windows = validation_windows(mixture, config.limit_val_batches * rows, rows)
    for source, ids in sorted(windows.items()):
        sums = torch.zeros(2, dtype=torch.float64, device=trainer.device)
        for start in range(0, len(ids), rows):
            trainer.at(f"validation on {mixture.sources[source].folder.name}")
            mine = ids[start + first_row : start + min(rows, first_row + config.micro_batch_size)]
            sums += _loss_sum(trainer, mixture, mine, config.micro_batch_size)
        if trainer.has_last_stage:
            dist.all_reduce(sums, group=dp_pg)
            loss_sum, num_windows = sums.tolist()
            results.append(
                SourceLoss(
                    source=str(mixture.sources[source].folder),
                    loss=loss_sum / num_windows,
                    num_tokens=int(num_windows) * config.sequence_length,
                )
            )
    return results


def _loss_sum(trainer: Any, mixture: Mixture, ids: list[SampleId], micro_batch_size: int) -> torch.Tensor:
    """Return fp64 [sum of the windows' mean losses, number of windows], from one whole micro-batch.

    Every rank of a replica must run it, also with nothing to score, since their collectives belong together.
    """
    tokens = np.zeros((micro_batch_size, mixture.sequence_length + 1), dtype=np.int32)
    if ids:
        tokens[: len(ids)] = mixture.read(ids)
    offsets = _document_offsets(mixture, ids, micro_batch_size) if trainer.run.zagreus.document_masking else None
    batch = engine_batch(MicroBatch(torch.from_numpy(tokens), offsets), trainer.device)
    batch["label_mask"] = batch["label_mask"].clone()
    batch["label_mask"][len(ids) :] = False
    loss = trainer.unwrapped_model(**batch)["loss"]
    if not isinstance(loss, torch.Tensor):
        return torch.zeros(2, dtype=torch.float64, device=trainer.device)
    return torch.stack((loss.double() * len(ids), torch.full_like(loss, len(ids), dtype=torch.float64)))


def _document_offsets(mixture: Mixture, ids: list[SampleId], num_rows: int) -> torch.Tensor:
    """Return the document offsets of a micro-batch; rows without a window are one document."""
    with closing(OpenShards(mixture.shards)) as files:
        rows, starts = mixture.document_starts(Samples.from_ids(ids), files)
    return document_offsets(rows, starts, num_rows, mixture.sequence_length)
