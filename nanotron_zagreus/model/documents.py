"""Where documents begin inside a micro-batch, in the two forms that attention kernels take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

OFFSETS_PER_ROW = 64
"""The list of boundaries is padded to a multiple of this many per row: its length, which compiled code and CUDA graphs
depend on, then stays the same from step to step. Empty documents at the end cost a kernel next to nothing."""


@dataclass(frozen=True)
class Documents:
    """The documents of a micro-batch; a row's first token always begins one."""

    ids: torch.Tensor
    """int64 `[batch, sequence]`, equal within one document of a row, increasing along it."""
    offsets: torch.Tensor
    """int32 `[multiple of OFFSETS_PER_ROW x batch]`: boundaries in the flattened micro-batch, 0 first, its end repeated
    last."""

    @property
    def sizes(self) -> list[int]:
        """Tokens of each document, empty ones left out; waits for the device."""
        return [size for size in self.offsets.diff().tolist() if size]


def documents_of(position_ids: torch.Tensor, offsets: torch.Tensor | None = None) -> Documents:
    """Return the documents of a micro-batch in which a new one begins at every position 0.

    Args:
        position_ids: int64 `[batch, sequence]`.
        offsets: int32 `[documents + 1]`, the loader's `document_offsets`; None: found here, waiting for the device.
    """
    if offsets is None:
        starts = (position_ids.flatten() == 0).nonzero().flatten()
        offsets = F.pad(starts, (0, 1), value=position_ids.numel()).to(torch.int32)
    step = OFFSETS_PER_ROW * position_ids.shape[0]
    missing = -offsets.numel() % step
    padded = F.pad(offsets, (0, missing), value=position_ids.numel())
    return Documents(ids=(position_ids == 0).cumsum(dim=-1), offsets=padded)
