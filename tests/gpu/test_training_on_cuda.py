"""The same tiny run on a GPU and on the CPU; `pytest tests/gpu`, in a session of their own (tests/conftest.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "integration"))
from tiny_runs import launch, read_events, read_losses, tiny_config, write_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device; run `pytest tests/gpu` alone where one is"
    ),
]


PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16, as published": {
        "model__dtype": "bfloat16",
        "optimizer__accumulate_grad_in_fp32": True,
        "optimizer__optimizer_factory__torch_adam_is_fused": True,
    },
}
BOUNDS = {"fp32": 1e-3, "bf16, as published": 2e-2}
"""Nats. fp32 kernels of two devices add in different orders (TF32 is off by default). In bf16 the fast paths are up to
1e-3 from the plain ones on a CPU."""


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_gives_the_cpus_losses_of_training_validation_and_a_resume(
    precision: str, documents: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = {"zagreus__validation_windows_per_source": 4, "tokens__limit_val_batches": 4}
    overrides = {**PRECISIONS[precision], **held_out, "tokens__val_check_interval": 6}

    def config(name: str, **more: str) -> Path:
        own = {"zagreus__document_masking": documents, "checkpoints__checkpoints_path": str(tmp_path / name), **more}
        return write_config(tmp_path / f"{name}.yaml", tiny_config(tmp_path, **overrides, **own))

    resume = {"checkpoints__resume_checkpoint_path": str(tmp_path / "gpu" / "10")}
    launch([config("gpu"), config("resumed", **resume)], num_processes=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch([config("cpu")], num_processes=1)
    gpu, resumed, cpu = (read_losses(tmp_path / name) for name in ("gpu", "resumed", "cpu"))
    assert max(abs(gpu[step] - cpu[step]) for step in cpu) < BOUNDS[precision]
    assert max(abs(gpu[step] - resumed[step]) for step in (11, 12)) < BOUNDS[precision]
    validated = [[row["loss"] for row in read_events(tmp_path / name, "validation")] for name in ("gpu", "cpu")]
    assert len(validated[1]) == 4
    assert max(abs(a - b) for a, b in zip(*validated, strict=True)) < BOUNDS[precision]


@pytest.mark.parametrize("name", ["cudnn", "flash", "varlen", "sdpa"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_kernel_gives_masked_attention_and_its_gradients(name: str, apart: bool, compiled: bool) -> None:
    from nanotron_zagreus.model.attention import causal_attention
    from nanotron_zagreus.model.attention_kernels import kernel
    from nanotron_zagreus.model.documents import Documents, documents_of
    from nanotron_zagreus.model.regional_compile import RegionalCompile

    if apart and name in ("cudnn", "flash"):
        pytest.skip("does not keep documents apart; config.checks refuses it")
    attention = kernel(name, compiled=compiled)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents | None) -> torch.Tensor:
        return attention(q, k, v, documents)

    torch._dynamo.reset()
    region = RegionalCompile(attend)
    positions = torch.cat((torch.arange(100), torch.arange(156))).expand(2, -1).cuda()
    offsets = torch.tensor([0, 100, 256, 356, 512], dtype=torch.int32, device="cuda")
    documents = documents_of(positions, offsets) if apart else None
    inputs = [torch.randn(2, 256, n, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for n in (6, 2, 2)]
    grad = torch.randn_like(inputs[0])
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    reference = causal_attention(*exact, documents)
    out = (region if compiled else attend)(*inputs, documents)
    results = (out, *torch.autograd.grad(out, inputs, grad))
    expected = (reference, *torch.autograd.grad(reference, exact, grad.float()))
    assert not region.is_eager
    for ours, theirs in zip(results, expected, strict=True):
        assert ((ours.float() - theirs).norm() / theirs.norm()).item() < 1e-2  # bf16 keeps 8 bits


def test_the_chunked_loss_of_a_gpu_is_no_further_from_fp64_than_the_plain_one() -> None:
    from nanotron_zagreus.model.linear_cross_entropy import linear_cross_entropy
    from nanotron_zagreus.model.logits_chunk import fuses_on

    hidden = torch.randn(700, 64, device="cuda").bfloat16().requires_grad_()
    weight = (0.3 * torch.randn(1000, 64, device="cuda")).bfloat16().requires_grad_()
    labels, scale = torch.randint(0, 1000, (700,), device="cuda"), torch.full((700,), 1 / 2100, device="cuda")

    def plain(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        logits = h @ w.t()
        logits = logits if logits.dtype is torch.float64 else logits.float()
        return (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * scale).sum()

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    truth = torch.autograd.grad(plain(*exact), exact)
    theirs = torch.autograd.grad(plain(hidden, weight), (hidden, weight))
    chunked = linear_cross_entropy(hidden, weight, labels, scale, rows_per_chunk=128)
    for ours, other, right in zip(torch.autograd.grad(chunked, (hidden, weight)), theirs, truth, strict=True):
        assert (ours - right).norm() <= 1.01 * (other - right).norm()
    assert fuses_on(hidden.device), "its chunks ran uncompiled"
