"""A run against the shortest loop that could replace it: transformers' Llama and torch's AdamW on the same windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import read_figures

from nanotron_zagreus.arithmetic import count_flops_per_token, learning_rate_at
from nanotron_zagreus.config import load_config
from nanotron_zagreus.conversion.hf_config import hf_config
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.conversion.weight_map import hf_rows, read_hf_tensor
from nanotron_zagreus.data.mixture import open_mixture

pytestmark = pytest.mark.integration


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights under transformers' names."""
    source = open_checkpoint(folder)
    return {name: read_hf_tensor(rows, source.arch, source.read) for name, rows in hf_rows(source.arch).items()}


def build(folder: Path) -> Any:
    """Return transformers' model with a checkpoint's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**hf_config(open_checkpoint(folder).arch, "F32")))
    missing = model.load_state_dict(weights_of(folder), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], [])  # tied
    return model


def test_a_run_is_what_plain_pytorch_makes_of_its_windows(saved: Path) -> None:
    root, config = saved / "final", load_config(saved / "final.yaml")
    adam, schedule = config.optimizer.optimizer_factory, config.optimizer.learning_rate_scheduler
    assert config.optimizer.clip_grad == 1.0 and config.optimizer.weight_decay == 0.01
    mixture, model = open_mixture(config), build(root / "0")
    betas = (adam.adam_beta1, adam.adam_beta2)
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in model.named_parameters() if ("norm" in name) == is_norm], "weight_decay": decay}
        for is_norm, decay in ((False, 0.01), (True, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=adam.adam_eps)
    losses, norms, rates = (read_figures(root, name) for name in ("lm_loss", "grad_norm", "lr"))
    for step in range(1, 13):
        windows = torch.from_numpy(mixture.read(mixture.samples_of_step(step)).astype(np.int64))
        logits = model(input_ids=windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(schedule, step, 12)
        optimizer.step()
        optimizer.zero_grad()
        # fp32: only the order of additions differs.
        assert losses[step] == pytest.approx(loss.item(), abs=1e-5), step
        assert norms[step] == pytest.approx(norm.item(), rel=1e-5), step
        assert rates[step] == learning_rate_at(schedule, step, 12)
    assert read_figures(root, "consumed_samples") == {step: 8 * step for step in range(1, 13)}
    speeds, tflops = (read_figures(root, name) for name in ("tokens_per_sec_per_gpu", "model_tflops_per_gpu"))
    per_token = count_flops_per_token(config.model.model_config, 32).nanotron
    assert tflops[12] == pytest.approx(speeds[12] * per_token / 1e12)
    trained, ours = model.state_dict(), weights_of(root / "12")
    worst = max(float((trained[name] - value).abs().max()) for name, value in ours.items())
    print(f"largest difference of a weight after 12 steps {worst:.2e}")
    assert worst <= 1e-5
