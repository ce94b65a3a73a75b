"""Chunked projection and cross entropy against all logits at once, in fp32, bf16 and fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nanotron_zagreus.model.linear_cross_entropy import linear_cross_entropy

TOKENS, HIDDEN, VOCAB = 700, 48, 900


def inputs(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states, weight, labels (a few of them frequent, as in text) and a mask with gaps."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = (0.3 * torch.randn(VOCAB, HIDDEN, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    labels[::2] %= 20
    mask = torch.rand(TOKENS, generator=generator) < 0.8
    return hidden, weight, labels, mask


def plain_sum(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the masked sum of losses from all logits at once; fp64 stays fp64."""
    logits = hidden @ weight.t()
    logits = logits if logits.dtype is torch.float64 else logits.float()
    return (F.cross_entropy(logits, labels, reduction="none") * mask).sum()


def relative_error(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    return ((tensor.double() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("rows_per_chunk", [1, 64, 333, 700, 5000])
def test_fp32_loss_and_gradients_equal_the_plain_path_for_every_chunk_size(rows_per_chunk: int) -> None:
    hidden, weight, labels, mask = inputs(torch.float32)
    count = mask.sum()
    expected = plain_sum(hidden, weight, labels, mask) / count
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, labels, mask / count, rows_per_chunk=rows_per_chunk)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert abs(loss.item() - expected.item()) <= 1e-6
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        # The order of additions differs, nothing else.
        assert relative_error(gradient, reference.double()) <= 1e-6


def test_bf16_gradients_are_no_further_from_fp64_than_the_plain_path() -> None:
    hidden, weight, labels, mask = inputs(torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    # Not a power of two: scaling rounds, as it does in training.
    scale = 1 / (3 * mask.sum())
    reference = torch.autograd.grad(plain_sum(*exact, labels, mask) * scale, exact)
    plain = torch.autograd.grad(plain_sum(hidden, weight, labels, mask) * scale, (hidden, weight))
    chunked = linear_cross_entropy(hidden, weight, labels, mask * scale, rows_per_chunk=128)
    gradients = torch.autograd.grad(chunked, (hidden, weight))
    for name, ours, theirs, truth in zip(("hidden", "weight"), gradients, plain, reference, strict=True):
        errors = relative_error(ours, truth), relative_error(theirs, truth)
        print(f"{name}: relative error {errors[0]:.2e} chunked, {errors[1]:.2e} plain")
        assert ours.dtype is torch.bfloat16
        # The roundings are the same ones; which fp32 additions come first decides the last digits.
        assert errors[0] <= 1.01 * errors[1]


def test_masked_labels_take_no_part_even_where_their_loss_is_no_number() -> None:
    hidden, weight, labels, mask = inputs(torch.float32)
    # A row whose logits overflow: its loss is NaN or infinite.
    with torch.no_grad():
        hidden[~mask] = 1e38
    loss = linear_cross_entropy(hidden, weight, labels, mask.float())
    kept = linear_cross_entropy(hidden[mask], weight, labels[mask], mask[mask].float())
    assert loss.isfinite()
    assert abs(loss.item() - kept.item()) <= 1e-6 * kept.item()


def test_an_empty_mask_gives_zero_and_zero_gradients() -> None:
    hidden, weight, labels, _ = inputs(torch.float32)
    loss = linear_cross_entropy(hidden, weight, labels, torch.zeros(TOKENS))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0.0
    assert not any(gradient.any() for gradient in gradients)


def test_without_gradients_nothing_of_the_weight_s_size_is_allocated() -> None:
    hidden, weight, labels, mask = inputs(torch.float32)
    expected = linear_cross_entropy(hidden, weight, labels, mask.float())
    sizes: list[int] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out,) if isinstance(t, torch.Tensor) and t.shape == weight.shape)
            return out

    with torch.no_grad(), Recorder():
        loss = linear_cross_entropy(hidden, weight, labels, mask.float())
    assert torch.equal(loss, expected)
    assert not sizes


def test_no_tensor_of_all_logits_exists() -> None:
    hidden, weight, labels, mask = inputs(torch.float32)
    largest = [0]

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    with Recorder():
        linear_cross_entropy(hidden, weight, labels, mask.float(), rows_per_chunk=50).backward()
    assert largest[0] == max(50 * VOCAB, VOCAB * HIDDEN)
