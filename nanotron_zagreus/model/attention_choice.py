"""Which attention kernel a run uses: the one asked for, or on a GPU the fastest there at the run's shape."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from nanotron_zagreus.model.attention_kernels import kernel
from nanotron_zagreus.model.documents import Documents, documents_of

SIXTEEN_BITS = (torch.bfloat16, torch.float16)
_WARM_UPS = 3
_REPEATS = 10
_DOCUMENTS_PER_ROW = 4
"""Documents in a row when kernels that keep them apart are timed; web text at 4,096 tokens has about as many."""


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """What the speed of a kernel depends on; heads are those of one tensor-parallel rank."""

    batch: int
    sequence: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    has_documents: bool


@dataclass(frozen=True)
class AttentionChoice:
    """A kernel's name in `attention_kernels.KERNELS`, and why it was taken."""

    name: str
    reason: str


def choose_attention(wanted: str, shape: AttentionShape, device: torch.device) -> AttentionChoice:
    """Return the kernel for ``wanted``, `auto` or a kernel's name.

    On a GPU, `auto` times the candidates forward and backward, about a second; the choice can differ between
    launches where two are equally fast, so a run that must repeat bit for bit names its kernel.
    """
    if wanted != "auto":
        return AttentionChoice(wanted, "asked for by zagreus.attention")
    if device.type != "cuda":
        name = "per_document" if shape.has_documents else "sdpa"
        return AttentionChoice(name, f"auto on {device.type}")
    names = candidates(shape)
    if len(names) == 1:
        return AttentionChoice(names[0], f"the only one for {shape.dtype} on {device.type}")
    return fastest(names, shape, device)


def candidates(shape: AttentionShape) -> tuple[str, ...]:
    """Return the kernels worth timing on a GPU; flash-attn is taken only when asked for.

    All but torch's own choice, `sdpa`, compute in 16 bits and no wider.
    """
    if shape.dtype not in SIXTEEN_BITS:
        return ("sdpa",)
    return ("varlen", "sdpa") if shape.has_documents else ("cudnn", "flash", "varlen", "sdpa")


def fastest(names: tuple[str, ...], shape: AttentionShape, device: torch.device) -> AttentionChoice:
    """Return the kernel with the smallest median time; one that cannot run here is out.

    Raises:
        RuntimeError: none can run.
    """
    times: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            times[name] = time_kernel(name, shape, device)
        except (RuntimeError, ImportError) as error:
            failures[name] = str(error).splitlines()[0][:100]
    if device.type == "cuda":
        # Torch's plain kernel holds every row's square, gigabytes that the allocator would keep, cut up, for the run.
        torch.cuda.empty_cache()
    if not times:
        raise RuntimeError(f"no attention kernel of {names} runs on {device}: {failures}")
    figures = [f"{name} {seconds * 1e3:.3g} ms" for name, seconds in sorted(times.items(), key=lambda item: item[1])]
    figures += [f"{name} cannot run ({why})" for name, why in failures.items()]
    return AttentionChoice(
        min(times, key=times.__getitem__), f"fastest here, forward and backward: {', '.join(figures)}"
    )


def time_kernel(name: str, shape: AttentionShape, device: torch.device) -> float:
    """Return the median seconds of one forward and backward pass of a layer's attention."""
    sizes = [(shape.batch, shape.sequence, n, shape.head_dim) for n in (shape.heads, shape.kv_heads, shape.kv_heads)]
    query, key, value = (torch.randn(s, dtype=shape.dtype, device=device, requires_grad=True) for s in sizes)
    grad = torch.randn(sizes[0], dtype=shape.dtype, device=device)
    documents = _even_documents(shape, device) if shape.has_documents else None
    attend = kernel(name, compiled=False)
    seconds = []
    for _ in range(_WARM_UPS + _REPEATS):
        _wait(device)
        started = time.perf_counter()
        torch.autograd.grad(attend(query, key, value, documents), (query, key, value), grad)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UPS:])


def _even_documents(shape: AttentionShape, device: torch.device) -> Documents:
    length = -(-shape.sequence // _DOCUMENTS_PER_ROW)
    position_ids = torch.arange(shape.sequence, device=device).remainder(length).expand(shape.batch, -1)
    return documents_of(position_ids)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
