"""Nanotron 0.4's own Llama and trainer, with flash-attn's functions served.

The peer of the speed benchmark is real, and what it saves converts to what it computes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.tiny_runs import REPOSITORY, launch_environment
from tests.unit.conversion_fixtures import write_tokenizer_folder

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

CONVERSION = """
import dataclasses, json, sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks import train_step_sides
from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu

root = Path(sys.argv[1])
step, trainer, _, config = train_step_sides.build("stock nanotron", True, 1, 1)
model = trainer.unwrapped_model
from nanotron.serialize.weights import save_weights

# Weights large enough, and norms unlike one, for every mistake to show.
generator = torch.Generator().manual_seed(0)
with torch.no_grad(), cuda_as_cpu():
    for name, param in model.named_parameters():
        noise = torch.randn(param.shape, generator=generator)
        param.copy_(1 + 0.3 * noise if "norm" in name else 1.5 * param.shape[-1] ** -0.5 * noise)
    save_weights(model, trainer.parallel_context, root / "5")
(root / "5/model_config.json").write_text(json.dumps(dataclasses.asdict(trainer.model_config)))

from nanotron_zagreus.conversion.to_hf import convert_checkpoint

record = convert_checkpoint(root / "5", root / "hf", root / "tokenizer")
tokens = torch.randint(record.architecture["vocab_size"], (1, 64), generator=generator)
with torch.no_grad(), cuda_as_cpu():
    trained = model.float().model(input_ids=tokens, input_mask=torch.ones_like(tokens, dtype=torch.bool))
converted = AutoModelForCausalLM.from_pretrained(root / "hf", dtype=torch.float32)
with torch.no_grad():
    logits = converted(tokens).logits[0]
difference = float((trained.float().view_as(logits) - logits).abs().max())
print("found", record.architecture["rope_interleaved"], difference, float(logits.abs().max()))
"""


def run_program(word: str, program: str, *arguments: str) -> list[str]:
    """Run a program in a process of its own; return what follows ``word`` on the one line that begins with it."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=launch_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(word)]
    return line.split()[1:]


def test_nanotron_s_own_llama_trains_on_what_is_served_in_place_of_flash_attn() -> None:
    losses = [float(word) for word in run_program("losses", PROGRAM)]
    assert all(abs(loss - math.log(16_384)) < 0.5 for loss in losses)
    assert len(set(losses)) == len(losses)


def test_a_checkpoint_of_nanotron_s_own_llama_converts_to_what_that_model_computes(tmp_path: Path) -> None:
    """Its rotary pairs are interleaved and no file says so; fp32, on weights saved in bf16."""
    path = write_tokenizer_folder(tmp_path / "tokenizer") / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary |= {f"word{index}": index for index in range(len(vocabulary), 16_384)}
    path.write_text(json.dumps(data))
    (tmp_path / "tokenizer/tokenizer_config.json").unlink()
    interleaved, difference, largest = run_program("found", CONVERSION, str(tmp_path))
    print(f"the engine's own Llama against its conversion: {difference}")
    assert interleaved == "True"
    assert float(difference) <= 1e-4
    assert float(largest) > 1
