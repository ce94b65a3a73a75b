"""Every attention kernel that runs here against plain masked attention, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from nanotron_zagreus.config import load_config_text
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.model.attention import causal_attention, document_mask
from nanotron_zagreus.model.attention_choice import AttentionShape, candidates, choose_attention, fastest
from nanotron_zagreus.model.attention_kernels import KERNELS, varlen_options
from nanotron_zagreus.model.documents import OFFSETS_PER_ROW, documents_of
from nanotron_zagreus.resources import find_config

SEQUENCE = 96
STARTS = [[0, 1, 40, 41, 95], [0]]
CPU = torch.device("cpu")


def position_ids(starts: list[list[int]] = STARTS) -> torch.Tensor:
    """Return positions `[rows, SEQUENCE]` that restart at 0 at each start."""
    steps = torch.arange(SEQUENCE)
    last_start = [torch.tensor([max(s for s in row if s <= i) for i in range(SEQUENCE)]) for row in starts]
    return torch.stack([steps - start for start in last_start])


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, SEQUENCE, n, 16, generator=generator, requires_grad=True) for n in (6, 2, 2)]


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return softmax attention written out, with the mask `[batch, 1, sequence, sequence]`."""
    repeats = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(repeats, dim=2) for x in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~mask, -torch.inf).softmax(dim=-1), value)


@pytest.mark.parametrize("kernel", ["sdpa", "per_document"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_kernel_gives_masked_attention_and_its_gradients(kernel: str, apart: bool) -> None:
    tensors = inputs()
    positions = position_ids() if apart else position_ids([[0], [0]])
    documents = documents_of(positions)
    expected = by_hand(*tensors, document_mask(documents.ids))
    out = KERNELS[kernel](*tensors, documents if apart else None)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    gradients = zip(torch.autograd.grad(out, tensors, grad), torch.autograd.grad(expected, tensors, grad), strict=True)
    for ours, reference in gradients:
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_a_document_does_not_see_the_one_before() -> None:
    tensors = inputs()
    documents = documents_of(position_ids())
    before = causal_attention(*tensors, documents)
    with torch.no_grad():
        for tensor in tensors:
            tensor[0, :40] += 1.0
    after = causal_attention(*tensors, documents)
    assert torch.equal(before[0, 40:], after[0, 40:])
    assert not torch.equal(before[0, 1:40], after[0, 1:40])


def test_boundaries_are_padded_to_a_length_that_does_not_depend_on_the_documents() -> None:
    many = [[0, *range(3, 63)], [0, 5]]
    padded = [documents_of(position_ids(starts)).offsets for starts in (STARTS, [[0], [0]], many)]
    assert {offsets.shape for offsets in padded} == {(2 * OFFSETS_PER_ROW,)}
    assert padded[0].dtype == torch.int32
    assert padded[0][:7].tolist() == [0, 1, 40, 41, 95, 96, 192]
    assert set(padded[0][7:].tolist()) == {192}
    every = documents_of(position_ids([list(range(SEQUENCE))] * 2)).offsets  # more than the padding foresees
    assert every.shape == (4 * OFFSETS_PER_ROW,) and every[:193].tolist() == list(range(193))


def test_boundaries_from_the_loader_are_those_found_from_positions() -> None:
    import numpy as np

    from nanotron_zagreus.data.batch import MicroBatch, document_offsets, engine_batch

    inside = [(row, start) for row, starts in enumerate(STARTS) for start in starts[1:]]
    offsets = document_offsets(*np.array(inside).T, len(STARTS), SEQUENCE)
    batch = MicroBatch(torch.zeros(len(STARTS), SEQUENCE + 1, dtype=torch.int32), offsets)
    loaded = engine_batch(batch, CPU)
    given = documents_of(loaded["position_ids"], loaded["document_offsets"])
    found = documents_of(loaded["position_ids"])
    assert torch.equal(given.offsets, found.offsets)
    assert torch.equal(loaded["position_ids"], position_ids())
    assert given.sizes == [1, 39, 1, 54, 1, 96]


def shape(has_documents: bool, dtype: torch.dtype = torch.float32) -> AttentionShape:
    return AttentionShape(
        batch=2, sequence=64, heads=4, kv_heads=2, head_dim=16, dtype=dtype, has_documents=has_documents
    )


def test_the_choice_says_what_and_why() -> None:
    assert choose_attention("sdpa", shape(True), CPU).reason == "asked for by zagreus.attention"
    assert choose_attention("auto", shape(False), CPU).name == "sdpa"
    assert choose_attention("auto", shape(True), CPU).name == "per_document"


@pytest.mark.parametrize(
    ("dtype", "has_documents", "expected"),
    [
        (torch.bfloat16, False, ("cudnn", "flash", "varlen", "sdpa")),
        (torch.bfloat16, True, ("varlen", "sdpa")),
        # The others have no 32-bit form, torch's own choice always has one, with a mask too.
        (torch.float32, False, ("sdpa",)),
        (torch.float32, True, ("sdpa",)),
    ],
)
def test_a_gpu_has_a_kernel_for_every_dtype_with_and_without_documents(
    dtype: torch.dtype, has_documents: bool, expected: tuple[str, ...]
) -> None:
    assert candidates(shape(has_documents, dtype)) == expected


@pytest.mark.parametrize("has_documents", [False, True])
def test_fp32_on_a_gpu_takes_the_only_kernel_untimed(has_documents: bool) -> None:
    choice = choose_attention("auto", shape(has_documents), torch.device("cuda"))
    assert (choice.name, choice.reason) == ("sdpa", "the only one for torch.float32 on cuda")


def test_a_16_bit_kernel_is_refused_for_an_fp32_model(engine: Any) -> None:
    from nanotron_zagreus.training.attention import agree_on_attention

    data = yaml.safe_load(find_config("smollm2/zagreus_tiny.yaml").read_text(encoding="utf-8"))
    data["model"]["dtype"] = "float32"
    data.setdefault("zagreus", {})["attention"] = "flash"
    run = load_config_text(yaml.safe_dump(data), origin="test")
    with pytest.raises(InputError, match=r"zagreus\.attention: got flash.*16 bits.*float32; use"):
        agree_on_attention(run, torch.device("cuda"))


def test_the_fastest_kernel_is_taken_and_one_that_cannot_run_is_out() -> None:
    choice = fastest(("varlen", "sdpa", "per_document"), shape(True), CPU)
    assert choice.name in ("sdpa", "per_document")
    assert "varlen cannot run" in choice.reason
    assert choice.reason.count(" ms") == 2
    with pytest.raises(RuntimeError, match="no attention kernel"):
        fastest(("varlen",), shape(True), CPU)


def test_a_gpu_gets_back_what_the_timing_of_kernels_held(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def timed(name: str, *_: object) -> float:
        calls.append(name)
        return 1.0

    monkeypatch.setattr("nanotron_zagreus.model.attention_choice.time_kernel", timed)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("given back"))
    fastest(("varlen", "sdpa"), shape(True), torch.device("cuda"))
    assert calls == ["varlen", "sdpa", "given back"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("is_causal=False", {"is_causal": True}),
        ("*, window_size=(-1, -1)", {"window_size": (-1, 0)}),
        ("*, window_size=(-1, -1), enable_gqa=False", {"window_size": (-1, 0), "enable_gqa": True}),
    ],
)
def test_the_variable_length_kernel_is_asked_for_causal_attention_as_each_torch_wants_it(
    parameters: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, object] = {}
    exec(f"def varlen_attn(query, {parameters}): ...", namespace)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", namespace["varlen_attn"])
    assert varlen_options() == expected
