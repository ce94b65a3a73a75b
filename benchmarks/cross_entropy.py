"""Speed, memory and accuracy of the loss's last block: all logits at once, row chunks of several sizes, torch's own.

    python -m benchmarks.cross_entropy                 the published shape on a GPU, a smaller one on a CPU
    python -m benchmarks.cross_entropy --tokens 4096 --hidden 960 --vocab 128256 --rows 256 1024

Forward and backward in bf16 from hidden states to the gradients of hidden states and weight. All ways take turns in
every round; times are medians, on a CPU of the processor's own seconds. Held memory is what is allocated and not yet
freed, at its most; on a CPU it is counted operation by operation. Errors are relative to fp64.
`F.linear_cross_entropy` exists from torch 2.13 on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nanotron_zagreus.model.cross_entropy import cross_entropy
from nanotron_zagreus.model.linear_cross_entropy import linear_cross_entropy
from nanotron_zagreus.units import human_bytes

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(hidden `[tokens, hidden]`, weight `[vocab, hidden]`, labels `[tokens]`) -> mean loss."""


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss from all logits, in fp32 as the model's reference, or in fp64."""
    logits = hidden @ weight.t()
    if logits.dtype is torch.float64:
        return F.cross_entropy(logits, labels)
    return cross_entropy(logits, labels).mean()


def chunked(rows: int) -> Loss:
    """Return the mean loss by chunks of so many rows."""

    def loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = torch.full(labels.shape, 1 / labels.numel(), device=labels.device)
        return linear_cross_entropy(hidden, weight, labels, weights, rows_per_chunk=rows)

    return loss


def torch_chunked(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss by torch's own chunked operation, its default options."""
    return F.linear_cross_entropy(hidden, weight, labels, options=torch.nn.LinearCrossEntropyOptions())


def main() -> None:
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(arguments.tokens, arguments.hidden, generator=generator).to(device)
    weight = (0.05 * torch.randn(arguments.vocab, arguments.hidden, generator=generator)).to(device)
    labels = torch.randint(0, arguments.vocab, (arguments.tokens,), generator=generator).to(device)
    inputs = [tensor.bfloat16().requires_grad_() for tensor in (hidden, weight)]
    ways: dict[str, Loss] = {"all logits at once": plain}
    ways |= {f"chunks of {rows:,} rows": chunked(rows) for rows in arguments.rows}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        ways["F.linear_cross_entropy"] = torch_chunked
    truth = _exact_gradients(inputs, labels) if not arguments.skip_errors else None
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, loss in ways.items():
            _wait(device)
            started = _now(device)
            torch.autograd.grad(loss(*inputs, labels), inputs)
            _wait(device)
            seconds[name].append(_now(device) - started)
    print(f"{arguments.tokens:,} tokens, hidden size {arguments.hidden}, vocabulary {arguments.vocab:,}, {device}")
    print("| way | ms, median (range) | time over all at once | held at most | error of the two gradients |")
    print("|---|---|---|---|---|")
    for name, loss in ways.items():
        times = seconds[name][1:]
        ratio = statistics.median(a / b for a, b in zip(times, seconds["all logits at once"][1:], strict=True))
        spread = f"{statistics.median(times) * 1e3:.0f} ({min(times) * 1e3:.0f} to {max(times) * 1e3:.0f})"
        errors = "" if truth is None else _errors(loss, inputs, labels, truth)
        held = human_bytes(_held_bytes(loss, inputs, labels))
        print(f"| {name} | {spread} | {ratio:.2f} | {held} | {errors} |", flush=True)


def _exact_gradients(inputs: list[torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(plain(*exact, labels), exact)


def _errors(loss: Loss, inputs: list[torch.Tensor], labels: torch.Tensor, truth: tuple[torch.Tensor, ...]) -> str:
    gradients = torch.autograd.grad(loss(*inputs, labels), inputs)
    errors = [((g.double() - t).norm() / t.norm()).item() for g, t in zip(gradients, truth, strict=True)]
    return ", ".join(f"{error:.2e}" for error in errors)


def _held_bytes(loss: Loss, inputs: list[torch.Tensor], labels: torch.Tensor) -> int:
    """Return the most bytes that tensors made in one forward and backward pass held at one moment."""
    if labels.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(loss(*inputs, labels), inputs)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        torch.autograd.grad(loss(*inputs, labels), inputs)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def _now(device: torch.device) -> float:
    """Return a clock in seconds: on a CPU the processor's, which other programs do not stop."""
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384 if on_gpu else 2048)
    parser.add_argument("--hidden", type=int, default=960 if on_gpu else 384)
    parser.add_argument("--vocab", type=int, default=128_256 if on_gpu else 16_384)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 2048, 4096] if on_gpu else [64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-errors", action="store_true", help="no comparison with fp64, which needs the memory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
