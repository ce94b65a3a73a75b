"""Random initialisation that is the same for every topology.

The full tensor of a parameter comes from (seed, parameter name) alone; each rank keeps its slice. Upstream
0.4 draws each rank's shard from the same seed (trainer.py:159), so that tensor-parallel shards are copies of
each other and the effective width is halved.
"""

from __future__ import annotations

import hashlib
import math

import torch


def full_normal(shape: tuple[int, ...], std: float, seed: int, name: str) -> torch.Tensor:
    """Return fp32 ``shape`` drawn from normal(0, std), a function of ``seed`` and the parameter's ``name`` only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").mul_(std)


def row_parallel_std(std: float, num_hidden_layers: int) -> float:
    """Return the standard deviation of o_proj and down_proj: std / sqrt(2 x num_hidden_layers).

    Keeps the residual stream's variance independent of depth (GPT-2; Radford et al. 2019, section 2.3).
    """
    return std / math.sqrt(2 * num_hidden_layers)
