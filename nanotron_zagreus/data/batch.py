"""A micro-batch on its way: as few bytes as there are until it is on the device, then what the engine takes.

The loader hands over tokens of four bytes, each once. What upstream's collator makes of them on the host (inputs and
labels of eight bytes, two masks, positions) is more than four times as much to write and to copy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


class MicroBatch(NamedTuple):
    """What one forward pass reads."""

    tokens: torch.Tensor
    """int32 `[micro_batch_size, sequence_length + 1]`: windows; inputs are all but the last, labels but the first."""
    document_offsets: torch.Tensor | None = None
    """int32 `[documents + 1]`: see :func:`document_offsets`; None: documents are not kept apart."""


def document_offsets(rows: np.ndarray, starts: np.ndarray, num_rows: int, sequence_length: int) -> torch.Tensor:
    """Return where documents begin in the flattened `[num_rows x sequence_length]` micro-batch, and its end.

    As variable-length attention kernels take them, from 0 on, int32 `[documents + 1]`.

    Args:
        rows: int64 `[starts]`, the row of each start.
        starts: int64 `[starts]`, where documents start inside their row, in (0, sequence_length). A row's first token
            always starts one, since attention cannot see past the window.
        num_rows: rows of the micro-batch.
        sequence_length: tokens a row.
    """
    first_tokens = np.arange(num_rows + 1) * sequence_length
    return torch.from_numpy(np.sort(np.concatenate((first_tokens, rows * sequence_length + starts))).astype(np.int32))


def engine_batch(batch: MicroBatch, device: torch.device) -> dict[str, torch.Tensor]:
    """Return ``batch`` on ``device`` as the engine takes it, without waiting for the device.

    Returns:
        input_ids, label_ids (int64), input_mask, label_mask (bool, nothing masked: windows are never padded), all
        `[micro_batch_size, sequence_length]`; with document offsets also document_offsets and position_ids (int64, same
        shape, counted from each document's first token in the row).
    """
    tokens = batch.tokens.to(device, non_blocking=True)
    made = {"input_ids": tokens[:, :-1].long().contiguous(), "label_ids": tokens[:, 1:].long().contiguous()}
    mask = torch.ones(made["input_ids"].shape, dtype=torch.bool, device=device)
    made |= {"input_mask": mask, "label_mask": mask}
    if batch.document_offsets is not None:
        offsets = batch.document_offsets.to(device, non_blocking=True)
        firsts = torch.repeat_interleave(offsets[:-1], offsets.diff(), output_size=mask.numel())
        positions = torch.arange(mask.numel(), device=device) - firsts
        made |= {"position_ids": positions.view(mask.shape), "document_offsets": offsets}
    return made
