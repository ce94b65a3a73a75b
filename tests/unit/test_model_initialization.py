"""Random parameters depend on seed and name, not on topology."""

from __future__ import annotations

import math

import torch

from nanotron_zagreus.model.initialization import full_normal, row_parallel_std


def test_the_same_seed_and_name_give_the_same_tensor() -> None:
    first, second = (full_normal((64, 8), 0.03, 8, "model.a") for _ in range(2))
    assert torch.equal(first, second)


def test_another_name_or_seed_gives_another_tensor() -> None:
    base = full_normal((64, 8), 0.03, 8, "model.a")
    assert not torch.equal(base, full_normal((64, 8), 0.03, 8, "model.b"))
    assert not torch.equal(base, full_normal((64, 8), 0.03, 9, "model.a"))


def test_the_state_of_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    full_normal((16, 16), 1.0, 1, "x")
    assert torch.equal(before, torch.get_rng_state())


def test_the_spread_is_the_asked_one() -> None:
    # 200,000 draws: the standard error of the sample's standard deviation is 0.16 %.
    assert abs(full_normal((400, 500), 0.03227, 8, "w").std().item() / 0.03227 - 1) < 0.01


def test_row_parallel_outputs_shrink_with_depth() -> None:
    assert row_parallel_std(0.03227, 32) == 0.03227 / math.sqrt(64)
