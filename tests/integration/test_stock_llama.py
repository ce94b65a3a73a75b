"""The peer of the speed benchmark is real: Nanotron 0.4's own Llama and trainer, with flash-attn's functions served."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from tiny_runs import REPOSITORY, launch_environment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif("NANOTRON_SRC" in os.environ, reason="the peer is nanotron 0.4, another engine is tested"),
]

PROGRAM = """
import torch
from benchmarks import stock_llama, train_step_sides
from nanotron_zagreus.model.attention import causal_attention
from nanotron_zagreus.model.rms_norm import rms_norm

step, trainer, _, config = train_step_sides.build("stock nanotron", True, 1, 1)
assert type(trainer.unwrapped_model).__module__ == "nanotron.models.llama"
print("losses", *(float(step()) for _ in range(8)))

q, k, v = (torch.randn(2, 32, heads, 8) for heads in (4, 2, 2))
served = stock_llama._varlen_on_cpu(q=q.flatten(0, 1), k=k.flatten(0, 1), v=v.flatten(0, 1), max_seqlen_q=32)
torch.testing.assert_close(served, causal_attention(q, k, v).flatten(0, 1))

weight = torch.randn(8)
torch.testing.assert_close(stock_llama._rms_norm(q, weight, 1e-5), rms_norm(q, weight, 1e-5))

angles = torch.outer(torch.arange(32.0), 10000.0 ** (-torch.arange(0, 8, 2) / 8))
turned = torch.view_as_complex(q.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)[:, None]
rotated, kv = stock_llama._Rotary(8, interleaved=True)(q, torch.stack((k, v), dim=2))
torch.testing.assert_close(rotated, torch.view_as_real(turned).flatten(-2))
torch.testing.assert_close(kv[:, :, 1], v)
"""


def test_nanotron_s_own_llama_trains_on_what_is_served_in_place_of_flash_attn() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=launch_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("losses")]
    losses = [float(word) for word in line.split()[1:]]
    assert all(abs(loss - math.log(16_384)) < 0.5 for loss in losses)
    assert len(set(losses)) == len(losses)
