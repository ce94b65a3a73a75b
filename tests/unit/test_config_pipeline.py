"""Layers are divided over pipeline ranks as the engine divides them, and a division it cannot run is known."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.config import load_config
from nanotron_zagreus.config.pipeline import layers_per_pipeline_rank
from tests.unit.upstream_source import upstream_function


class Block:
    """Stands for the engine's PipelineBlock: knows its kind and remembers the rank it is built on."""

    def __init__(self, kind: str) -> None:
        self.module_builder = kind

    def build_and_set_rank(self, rank: int) -> None:
        self.rank = rank


def engine_division(num_layers: int, layer_cost: int, head_cost: int, pp: int) -> tuple[list[Block], int]:
    """Return the blocks of a model after the engine's own build_model, and the rank it expects the head on."""
    blocks = [Block("embedding"), *(Block("layer") for _ in range(num_layers)), Block("norm"), Block("head")]
    model = SimpleNamespace(
        named_modules=lambda: [(str(i), block) for i, block in enumerate(blocks)],
        get_block_compute_costs=lambda: {"layer": layer_cost, "head": head_cost},
        log_modules=lambda **named: None,
    )
    names = {
        "PipelineBlock": Block,
        "np": np,
        "logging": logging,
        "logger": None,
        "log_rank": lambda *arguments, **named: None,
        "torch": SimpleNamespace(device=lambda name: name),
        "init_on_device_and_dtype": lambda **named: contextlib.nullcontext(),
    }
    build_model = upstream_function("models/base.py", "build_model", names)
    groups = SimpleNamespace(world_pg=None, pp_pg=SimpleNamespace(size=lambda: pp))
    built = build_model(model_builder=lambda: model, parallel_context=groups, dtype=None)
    return blocks, built.output_pp_rank


@given(st.integers(1, 40), st.integers(1, 10**8), st.integers(1, 10**9), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_the_division_is_the_engines(num_layers: int, layer_cost: int, head_cost: int, pp: int) -> None:
    mine = layers_per_pipeline_rank(num_layers, layer_cost, head_cost, pp)
    blocks, _ = engine_division(num_layers, layer_cost, head_cost, pp)
    if mine is None:
        assert blocks[-1].rank < pp - 1, "the head is not on the last rank, which holds nothing"
        return
    layers = [sum(block.rank == rank for block in blocks[1:-2]) for rank in range(pp)]
    assert mine == layers
    assert blocks[-1].rank == pp - 1
    assert {block.rank for block in blocks} == set(range(pp)), "every rank holds a block"


@pytest.mark.parametrize(("pp", "layers"), [(1, [32]), (2, [23, 9]), (3, [15, 15, 2]), (4, None), (8, None)])
def test_the_published_model_over_pipeline_ranks(pp: int, layers: list[int] | None) -> None:
    model = load_config("zagreus_350M_por.yaml").model.model_config
    assert layers_per_pipeline_rank(32, model.layer_cost, model.head_cost, pp) == layers
