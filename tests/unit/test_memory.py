"""Estimates against what the model's backward pass really keeps and its head holds; how many checkpoints stay."""

from __future__ import annotations

import copy
import math
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nanotron_zagreus.config import load_config, load_config_text
from nanotron_zagreus.config.reliability import CheckpointKeepingSection
from nanotron_zagreus.config.sections import CheckpointsSection
from nanotron_zagreus.memory import MemoryEstimate, checkpoint_bytes, estimate_memory, num_kept, num_saves
from nanotron_zagreus.resources import find_config
from tests.unit.config_fixtures import edited
from tests.unit.engine_model import build_model, fill_randomly

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, g++ is not here"
)
SEQUENCE = 128
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "max_position_embeddings": SEQUENCE,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def build(num_layers: int, dtype: torch.dtype, compiled: bool) -> Any:
    """Return the engine's model in this process."""
    model = build_model({**SHAPE, "num_hidden_layers": num_layers}, dtype=dtype, compile_blocks=compiled)
    fill_randomly(model, std=0.02, seed=1)
    return model


def kept_bytes(num_layers: int, micro_batch_size: int, dtype: str, compiled: bool) -> int:
    """Return the bytes that the backward pass keeps besides the parameters, each storage once."""
    model = build(num_layers, getattr(torch, dtype), compiled)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    rows = torch.randint(0, SHAPE["vocab_size"], (micro_batch_size, SEQUENCE))
    mask = torch.ones_like(rows, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=rows, input_mask=mask, label_ids=rows, label_mask=mask)["loss"]
    total = sum(storage.nbytes() for storage in kept.values())
    assert loss.isfinite()
    return total


def estimated_bytes(num_layers: int, micro_batch_size: int, dtype: str, compiled: bool) -> int:
    """Return `estimate_memory`'s activations for the same model."""
    return estimate(num_layers, micro_batch_size, dtype, compiled).activations


def estimate(num_layers: int, micro_batch_size: int, dtype: str, compiled: bool = True, **shape: int) -> MemoryEstimate:
    """Return the estimate for a model of SHAPE, ``shape`` replacing some of it."""
    data = copy.deepcopy(yaml.safe_load(find_config("zagreus_tiny.yaml").read_text(encoding="utf-8")))
    data["model"]["model_config"] |= {**SHAPE, **shape, "num_hidden_layers": num_layers}
    data["model"]["dtype"] = dtype
    data["zagreus"]["compile_blocks"] = compiled
    data["optimizer"]["accumulate_grad_in_fp32"] = dtype == "bfloat16"
    data["tokens"] |= {"micro_batch_size": micro_batch_size, "sequence_length": SEQUENCE}
    return estimate_memory(load_config_text(yaml.safe_dump(data), origin="test"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=NEEDS_COMPILER)])
def test_estimated_activations_are_what_the_backward_pass_keeps(engine: Any, compiled: bool, dtype: str) -> None:
    # A difference over layers and over micro-batches cancels the head and the tables of the rotation.
    def of_two_layers(count: Any) -> int:
        many, few = (count(3, size, dtype, compiled) - count(1, size, dtype, compiled) for size in (4, 2))
        return many - few

    measured, estimated = of_two_layers(kept_bytes), of_two_layers(estimated_bytes)
    print(f"{dtype}, compiled {compiled}: {measured:,} bytes kept, {estimated:,} estimated")
    # Left out: one number per token for each norm and each head.
    assert estimated <= measured <= 1.01 * estimated


class HeldBytes(TorchDispatchMode):
    """Follows the memory of the tensors that operations return, not what an operation uses inside."""

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage().data_ptr(): 0 for tensor in inputs}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() in self._known:
            return
        self._known[storage.data_ptr()] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, storage.data_ptr())

    def _forget(self, address: int) -> None:
        self.now -= self._known.pop(address)


class Kernel:
    """Stands for a compiled region: computes row by row, and so holds no more than its result, as a GPU's does."""

    is_eager = False

    def __init__(self, function: Callable[..., torch.Tensor | None]) -> None:
        self._function = function

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor | None:
        rows = (self._function(*(tensor[i : i + 1] for tensor in tensors)) for i in range(len(tensors[0])))
        first = next(rows)
        if first is None:  # it works in place
            assert not any(row is not None for row in rows)
            return None
        out = first.new_empty((len(tensors[0]), *first.shape[1:]))
        out[:1] = first
        for i, row in enumerate(rows, start=1):
            assert row is not None
            out[i] = row[0]
        return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows_per_chunk", [64, 100])
def test_the_estimated_head_is_what_a_gpu_holds(
    dtype: str, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus import memory
    from nanotron_zagreus.model import linear_cross_entropy as module
    from nanotron_zagreus.model import logits_chunk

    regions = tuple(Kernel(function) for function in (logits_chunk._log_sum, logits_chunk._make_gradient))
    monkeypatch.setattr(logits_chunk, "compiled_regions", lambda: regions)
    monkeypatch.setattr(module, "fuses_on", lambda device: True)
    monkeypatch.setattr(memory, "_ROWS_PER_CHUNK", rows_per_chunk)
    # On a GPU the sum needs no memory; a CPU converts its factors.
    monkeypatch.setattr(module, "_add_product", lambda total, left, right: None)
    num_tokens, vocabulary = 2 * SEQUENCE, 4096
    hidden = torch.randn(num_tokens, SHAPE["hidden_size"]).to(getattr(torch, dtype)).requires_grad_()
    weight = torch.randn(vocabulary, SHAPE["hidden_size"]).to(hidden.dtype).requires_grad_()
    labels, weights = torch.randint(0, vocabulary, (num_tokens,)), torch.full((num_tokens,), 1 / num_tokens)

    with HeldBytes(hidden, weight, labels, weights) as held:
        loss = module.linear_cross_entropy(hidden, weight, labels, weights, rows_per_chunk=rows_per_chunk)
    assert loss.isfinite()
    measured, estimated = held.most, estimate(1, 2, dtype, vocab_size=vocabulary).logits
    print(f"{dtype}, {rows_per_chunk} rows: {measured:,} bytes held, {estimated:,} estimated")
    # Left out: a few numbers per row, and a row that the stand-in works on.
    assert estimated <= measured <= 1.05 * estimated


def test_the_plan_counts_the_chunk_that_the_model_computes() -> None:
    from nanotron_zagreus import memory
    from nanotron_zagreus.model.linear_cross_entropy import ROWS_PER_CHUNK

    assert ROWS_PER_CHUNK["cuda"] == memory._ROWS_PER_CHUNK


def test_memory_follows_the_precision_and_the_sharding() -> None:
    whole = estimate_memory(edited())
    parameters = 437_760_960
    assert whole.parameters == 2 * parameters
    assert whole.fp32_parameters == whole.fp32_gradients == 4 * parameters
    assert whole.optimizer_moments == 8 * parameters

    # Micro-batches whose gradients do not travel make them beside the buckets.
    twice = estimate_memory(edited(tokens__batch_accumulation_per_replica=2))
    assert twice.gradients == 2 * whole.gradients == 4 * parameters
    assert estimate_memory(edited(tokens__batch_accumulation_per_replica=2, parallelism__dp=2)) == twice
    assert estimate_memory(edited(tokens__batch_accumulation_per_replica=2, parallelism__dp=1)) == whole

    in_bf16 = edited(optimizer__accumulate_grad_in_fp32=False)
    assert estimate_memory(in_bf16).optimizer_moments == 4 * parameters
    assert estimate_memory(in_bf16).fp32_parameters == estimate_memory(in_bf16).fp32_gradients == 0
    assert checkpoint_bytes(in_bf16) == 6 * parameters

    zero = estimate_memory(edited(optimizer__zero_stage=1))
    assert zero.optimizer_moments == 8 * parameters // 64

    tensor_parallel = estimate_memory(
        edited(
            parallelism__tp=5,
            parallelism__tp_linear_async_communication=False,
            parallelism__tp_mode="ALL_REDUCE",
        )
    )
    # The hidden states' gradient is whole on every rank, the rest of the head is divided.
    undivided = 4 * 4096 * 960 * 2
    assert tensor_parallel.logits - undivided == pytest.approx((whole.logits - undivided) / 5, rel=1e-4)
    assert tensor_parallel.parameters < whole.parameters / 4

    recomputed = estimate_memory(edited(parallelism__recompute_layer=True))
    assert recomputed.activations < whole.activations / 7

    plain = estimate_memory(edited(zagreus__cross_entropy="plain"))
    assert plain.logits == 4 * 4096 * 128_256 * 2 * (2 + 4) > 8 * whole.logits
    exact = edited(zagreus__cross_entropy="plain", model__dtype="float32", optimizer__accumulate_grad_in_fp32=False)
    assert estimate_memory(exact).logits == plain.logits

    # A chunk's logits are more than what a block works in, until micro-batches grow.
    assert whole.workspace == 0 < estimate_memory(edited(tokens__micro_batch_size=24)).workspace

    uncompiled = estimate_memory(edited(zagreus__compile_blocks=False))
    assert uncompiled.activations > 2 * whole.activations
    assert estimate_memory(edited(zagreus__compile_blocks=True)) == whole  # what auto means on a GPU
    pipelined = estimate_memory(edited(parallelism__pp=2, zagreus__cross_entropy="plain"))
    assert pipelined.logits == plain.logits  # the last rank is the fullest: it holds all logits
    assert pipelined.activations < whole.activations


PER_TOKEN_AND_LAYER = 2 * 960 * 2 + 2 * (2 * 960 + 2 * 5 * 64 + 2 * 2560)
"""Bytes that a compiled block of the published model keeps, see `memory._activation_bytes`."""


@pytest.mark.parametrize(("engine", "in_flight"), [("1f1b", [2, 2, 1]), ("afab", [2, 2, 2])])
def test_a_pipeline_rank_holds_its_part_and_the_micro_batches_in_flight(engine: str, in_flight: list[int]) -> None:
    from nanotron_zagreus import memory

    config = edited(
        parallelism__pp=3,
        parallelism__pp_engine=engine,
        tokens__batch_accumulation_per_replica=2,
        optimizer__zero_stage=1,
    )
    ranks, layers = [memory._estimate_rank(config, rank) for rank in range(3)], memory._layers_of(config)
    assert sum(layers) == 32
    embedding, layer = 128_256 * 960, 9_830_400 + 2 * 960
    parameters = [num_layers * layer for num_layers in layers]
    parameters[0] += embedding
    parameters[2] += embedding + 960  # a copy of its own, and the last norm
    assert [rank.parameters for rank in ranks] == [2 * count for count in parameters]
    assert [rank.fp32_parameters for rank in ranks] == [4 * count // 64 for count in parameters]
    assert [rank.optimizer_moments for rank in ranks] == [8 * count // 64 for count in parameters]
    tokens = 4 * 4096
    kept = [num_layers * tokens * PER_TOKEN_AND_LAYER for num_layers in layers]
    assert [rank.activations for rank in ranks] == [n * size for n, size in zip(in_flight, kept, strict=True)]
    chunk, waiting = 2048 * 128_256 * 2, 960 * (128_256 * 4 + tokens * 2)
    assert [rank.logits for rank in ranks] == [0, 0, chunk + in_flight[2] * waiting]
    made = tokens * 2 * (4 * 2560 + 3 * 960)
    assert made < chunk
    assert [rank.workspace for rank in ranks] == [made, made, 0]
    assert estimate_memory(config) == max(ranks, key=lambda rank: rank.total)


def test_recomputed_layers_keep_their_inputs_and_what_one_layer_needs() -> None:
    recomputed = estimate_memory(edited(parallelism__recompute_layer=True))
    assert recomputed.activations == 4 * 4096 * (32 * 960 * 2 + PER_TOKEN_AND_LAYER)


@pytest.mark.parametrize(("mode", "sequence_parts"), [("REDUCE_SCATTER", 5), ("ALL_REDUCE", 1)])
def test_tensor_parallel_ranks_divide_what_their_mode_divides(mode: str, sequence_parts: int) -> None:
    divided = edited(
        parallelism__tp=5,
        parallelism__tp_mode=mode,
        parallelism__tp_linear_async_communication=False,
        parallelism__recompute_layer=True,
        tokens__sequence_length=4095,
    )
    estimated, tokens = estimate_memory(divided), 4 * 4095
    # Layers with collectives are not compiled: twice the norm's input in fp32, itself and its result; four of the MLP.
    around_norms, inside = 2 * 960 * (4 + 2 + 2), 2 * (2 * 960 + 2 * 5 * 64 + 4 * 2560)
    assert estimated.activations == tokens * ((32 * 960 * 2 + around_norms) / sequence_parts + inside / 5)
    assert estimated.parameters == 2 * ((437_760_960 + (4 - 65) * 960) // 5 + 65 * 960)  # four rows pad the vocabulary
    rows = math.ceil(128_256 / 5)
    assert estimated.logits == 2048 * rows * 2 + 960 * (rows * 4 + tokens * 2)


def test_saves_are_counted_with_the_first_and_the_last() -> None:
    assert num_saves(edited(tokens__train_steps=12_001)) == 2
    assert num_saves(edited(tokens__train_steps=12_001, checkpoints__save_final_state=True)) == 3
    assert num_saves(edited(checkpoints__save_final_state=True)) == 400
    assert num_saves(edited(checkpoints__save_initial_state=True)) == 401
    tiny = load_config("zagreus_tiny.yaml")
    assert checkpoint_bytes(tiny) == 12 * 590_688  # fp32 weights and moments, no masters


@given(
    steps=st.integers(1, 60),
    interval=st.integers(1, 20),
    keep_last=st.none() | st.integers(1, 70),
    keep_every=st.integers(1, 20) | st.just(None),
    first=st.booleans(),
    final=st.booleans(),
)
@settings(deadline=None)
def test_what_stays_is_what_pruning_leaves(
    steps: int, interval: int, keep_last: int | None, keep_every: int | None, first: bool, final: bool
) -> None:
    checkpoints = CheckpointsSection(
        checkpoints_path=Path("x"), checkpoint_interval=interval, save_initial_state=first, save_final_state=final
    )
    keeping = CheckpointKeepingSection(keep_last=keep_last, keep_every=keep_every if keep_last else None)
    saved = sorted({step for step in range(1, steps + 1) if step % interval == 0 or (final and step == steps)})
    saved = [*([0] if first else []), *saved]
    kept = set(saved) if keep_last is None else set(saved[-keep_last:])
    if keeping.keep_every is not None:
        kept |= {step for step in saved if step % keeping.keep_every == 0}
    assert num_kept(checkpoints, keeping, steps) == len(kept)
