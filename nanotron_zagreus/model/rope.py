"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), Hugging Face's half-split layout.

The tables are computed in fp32 and are no registered buffers: the engine casts registered ones to the
model's dtype, and a bf16 inv_freq moves positions by whole tokens at 4096.
"""

from __future__ import annotations

import torch


class RotaryTables:
    """Caches cos and sin for positions 0 … length - 1, per device; grows when asked for more."""

    def __init__(self, head_dim: int, theta: float) -> None:
        self._head_dim = head_dim
        self._theta = theta
        self._tables: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what :func:`rotary_tables` does for positions up to ``length``."""
        cached = self._tables.get(device)
        if cached is None or cached[0].shape[0] < length:
            cached = self._tables[device] = rotary_tables(length, self._head_dim, self._theta, device)
        return cached[0][:length], cached[1][:length]


def rotary_tables(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return fp32 cos and signed sin of p / theta^(2i / head_dim) for position p and pair i, each `[length, head_dim]`.

    Both have a pair's value twice, at i and i + head_dim / 2; the sine's first is negated, as :func:`apply_rotary`
    wants it.
    """
    with torch.no_grad():
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).to(torch.float32) / head_dim
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponents)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (i, i + head_dim / 2) of ``x`` by its position's angle; computed in fp32, returned in x's dtype.

    Args:
        x: `[batch, sequence, heads, head_dim]`.
        cos, sin: of :func:`rotary_tables`: `[sequence, head_dim]`, or `[batch, sequence, head_dim]` when positions
            differ by row.
    """
    x32 = x.float()
    # The partner of each element is a matter of indices only: nothing is concatenated that a compiler would store.
    partners = x32.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return (x32 * cos.unsqueeze(-2) + partners * sin.unsqueeze(-2)).to(x.dtype)
