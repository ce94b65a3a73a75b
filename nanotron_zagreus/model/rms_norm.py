"""Root-mean-square layer normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import functools

import torch
from torch import nn

from nanotron_zagreus.model.regional_compile import RegionalCompile


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + eps) x weight over the last dimension, in x's dtype.

    The mean is taken in fp32 and the result cast before the product, as transformers' Llama does, so
    that a converted model computes the same numbers.

    Args:
        x: `[..., hidden_size]`.
        weight: `[hidden_size]`.
        eps: added to the mean square.
    """
    x32 = x.float()
    normalised = x32 * torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)
    return weight * normalised.to(x.dtype)


class RMSNorm(nn.Module):
    """Holds the weight of :func:`rms_norm`; takes and returns `[..., hidden_size]`."""

    def __init__(self, hidden_size: int, eps: float, *, compiled: bool = False) -> None:
        """Leave the weight to be filled.

        Args:
            hidden_size: the last dimension.
            eps: added to the mean square.
            compiled: for a norm that is part of no compiled region.
        """
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self._norm = compiled_norm() if compiled else rms_norm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._norm(input, self.weight, self.eps)


@functools.cache
def compiled_norm() -> RegionalCompile:
    """Return this process's compiled :func:`rms_norm`."""
    return RegionalCompile(rms_norm)
