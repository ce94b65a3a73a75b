"""Chunked projection and cross entropy against all logits at once, in fp32, bf16 and fp64, plain and fused.

The fused way is a GPU's; here its regions are compiled for the CPU, or only captured (aot_eager), which is quicker.
"""

from __future__ import annotations

import shutil
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from nanotron_zagreus.model import linear_cross_entropy as module
from nanotron_zagreus.model import logits_chunk
from nanotron_zagreus.model.linear_cross_entropy import linear_cross_entropy
from nanotron_zagreus.model.regional_compile import RegionalCompile

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


def take_fused_way(monkeypatch: pytest.MonkeyPatch, backend: Any = "aot_eager") -> None:
    """Let chunks be computed as on a GPU, their regions compiled by ``backend``."""
    torch._dynamo.reset()
    functions = (logits_chunk._log_sum, logits_chunk._make_gradient)
    regions = tuple(RegionalCompile(function, backend=backend) for function in functions)
    monkeypatch.setattr(logits_chunk, "compiled_regions", lambda: regions)
    monkeypatch.setattr(module, "fuses_on", lambda device: True)


@pytest.fixture(params=["plain", "fused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways in turn."""
    if request.param == "fused":
        take_fused_way(monkeypatch)
    return request.param


@pytest.mark.parametrize("rows_per_chunk", [1, 64, 333, 700, 5000])
def test_fp32_loss_and_gradients_equal_the_plain_path_for_every_chunk_size(rows_per_chunk: int, way: str) -> None:
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


def test_bf16_gradients_are_no_further_from_fp64_than_the_plain_path(way: str) -> None:
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


def test_masked_labels_take_no_part_even_where_their_loss_is_no_number(way: str) -> None:
    hidden, weight, labels, mask = inputs(torch.float32)
    # A row whose logits overflow: its loss is NaN or infinite.
    with torch.no_grad():
        hidden[~mask] = 1e38
    loss = linear_cross_entropy(hidden, weight, labels, mask.float())
    kept = linear_cross_entropy(hidden[mask], weight, labels[mask], mask[mask].float())
    assert loss.isfinite()
    assert abs(loss.item() - kept.item()) <= 1e-6 * kept.item()


def test_an_empty_mask_gives_zero_and_zero_gradients(way: str) -> None:
    hidden, weight, labels, _ = inputs(torch.float32)
    loss = linear_cross_entropy(hidden, weight, labels, torch.zeros(TOKENS))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0.0
    assert not any(gradient.any() for gradient in gradients)


def test_without_gradients_nothing_of_the_weight_s_size_is_allocated(way: str) -> None:
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


def test_no_tensor_of_all_logits_exists(way: str) -> None:
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


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, g++ is not here")
def test_compiled_chunks_give_the_plain_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels, mask = inputs(torch.bfloat16)
    weights = mask / (3 * mask.sum())
    expected = linear_cross_entropy(hidden, weight, labels, weights, rows_per_chunk=350)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    take_fused_way(monkeypatch, "inductor")
    loss = linear_cross_entropy(hidden, weight, labels, weights, rows_per_chunk=350)
    assert not any(region.is_eager for region in logits_chunk.compiled_regions())
    assert abs(loss.item() - expected.item()) <= 1e-6
    for gradient, reference in zip(torch.autograd.grad(loss, (hidden, weight)), expected_gradients, strict=True):
        # An entry of a chunk's gradient that rounds to the neighbour is 2^-8 of itself.
        assert relative_error(gradient, reference.double()) <= 1e-4


def test_each_region_is_compiled_once_for_whole_chunks_and_once_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    take_fused_way(monkeypatch, counter)
    counts = []
    for seed in range(4):
        hidden, weight, labels, mask = inputs(torch.float32, seed)
        linear_cross_entropy(hidden, weight, labels, mask.float(), rows_per_chunk=333).backward()
        with torch.no_grad():
            linear_cross_entropy(hidden, weight, labels, mask.float(), rows_per_chunk=333)
        counts.append(counter.frame_count)
    # 333 + 333 + 34 rows, two regions; validation takes the sum's.
    assert counts == [4, 4, 4, 4]


@pytest.mark.parametrize("parts", [(300, 600), (500, 0, 400)])
def test_a_vocabulary_in_parts_gives_the_plain_chunk_of_the_whole(
    parts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, labels, mask = (tensor.detach() for tensor in inputs(torch.float32))
    weights = mask.float()
    whole = logits_chunk.targets_of(labels, weights, 0, VOCAB)
    losses, gradient = logits_chunk.plain_chunk(hidden, weight, whole, None, True)
    take_fused_way(monkeypatch)
    log_sum = (hidden @ weight.t()).logsumexp(dim=-1)
    # What the ranks would find out together.
    monkeypatch.setattr(logits_chunk, "_log_sum_over_ranks", lambda own, group: log_sum)
    found, first = [], 0
    for part in parts:
        targets = logits_chunk.targets_of(labels, weights, first, part)
        rows = weight[first : first + part]
        group: Any = object()
        found.append(logits_chunk.fused_chunk(hidden, rows, targets, group, True))
        first += part
    torch.testing.assert_close(sum(own for own, _ in found), losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([own for _, own in found], dim=1), gradient, rtol=1e-5, atol=1e-6)


def test_no_two_chunks_logits_exist_at_once(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = 0

    def counted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal alive
            assert alive == 0, "the chunk before is still there"
            losses, grad = function(*arguments)
            alive += 1
            weakref.finalize(grad, gone)
            return losses, grad

        return call

    def gone() -> None:
        nonlocal alive
        alive -= 1

    for name in ("plain_chunk", "fused_chunk"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    hidden, weight, labels, mask = inputs(torch.float32)
    linear_cross_entropy(hidden, weight, labels, mask.float(), rows_per_chunk=100)
    assert alive == 0


def test_products_are_added_in_place_only_where_trying_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    answers = {
        "right": lambda total, left, right, *, out_dtype, out: out.add_(left.float() @ right.float()),
        "overwriting": lambda total, left, right, *, out_dtype, out: out.copy_(left.float() @ right.float()),
    }
    for name, answer in answers.items():
        module._adds_in_place.cache_clear()
        monkeypatch.setattr(torch, "addmm", answer)
        assert module._adds_in_place(cpu, torch.bfloat16) is (name == "right")
    module._adds_in_place.cache_clear()
    monkeypatch.undo()
    # A CPU has no such product, and the call says so before it writes.
    assert not module._adds_in_place(cpu, torch.bfloat16)
