"""Parameters, FLOPs and learning rates equal the published and the upstream figures."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanotron_zagreus.arithmetic import (
    count_flops_per_token,
    count_parameters,
    decay_span,
    learning_rate_at,
    learning_rate_phases,
    tokens_per_second_per_gpu,
    training_seconds,
)
from nanotron_zagreus.config import load_config
from nanotron_zagreus.config.optimizer import LearningRateSection
from tests.unit.upstream_source import upstream_function

PUBLISHED = load_config("zagreus_350M_por.yaml")
MODEL = PUBLISHED.model.model_config


def test_the_published_model_has_437_760_960_parameters() -> None:
    count = count_parameters(MODEL)
    assert count.total == 437_760_960
    assert count.embedding == 128_256 * 960
    assert count.in_matrices_of_blocks == 314_572_800 == 32 * MODEL.layer_cost


def test_an_untied_head_counts_and_padded_rows_count() -> None:
    untied = dataclasses.replace(MODEL, tie_word_embeddings=False)
    assert count_parameters(untied).total == 437_760_960 + 128_256 * 960
    assert count_parameters(MODEL, num_vocab_rows=128_260).total == 437_760_960 + 4 * 960


def test_flops_per_token_in_both_conventions() -> None:
    flops = count_flops_per_token(MODEL, 4096)
    assert flops.causal / 1e9 == pytest.approx(3.381, abs=5e-4)
    assert flops.nanotron / 1e9 == pytest.approx(4.136, abs=5e-4)
    assert flops.nanotron / flops.causal == pytest.approx(1.22, abs=0.005)


def test_nanotrons_convention_is_nanotrons_own_function() -> None:
    upstream = upstream_function("models/llama.py", "get_flops", {})
    per_batch, _ = upstream(
        num_layers=32,
        hidden_size=960,
        num_heads=15,
        num_key_value_heads=5,
        vocab_size=128_256,
        seq_len=4096,
        ffn_hidden_size=2560,
        batch_size=3,
    )
    assert count_flops_per_token(MODEL, 4096).nanotron == per_batch / (3 * 4096)


def test_time_is_tokens_over_rate() -> None:
    rate = tokens_per_second_per_gpu(3.381e9, utilisation=0.3)
    assert rate == pytest.approx(0.3 * 312e12 / 3.381e9)
    assert training_seconds(1_000_000, rate=1000, num_gpus=10) == 100


SCHEDULE = PUBLISHED.optimizer.learning_rate_scheduler


def test_the_published_schedule_at_its_corners() -> None:
    rates = {
        step: learning_rate_at(SCHEDULE, step, 2_000_000) for step in (1, 2, 4001, 4002, 750_001, 775_001, 800_001)
    }
    assert rates[1] == 0
    assert rates[2] == pytest.approx(0.003 / 4000)
    assert rates[4001] == rates[4002] == rates[750_001] == 0.003
    assert rates[775_001] == pytest.approx((0.003 + 1e-7) / 2)
    assert rates[800_001] == pytest.approx(1e-7)
    assert learning_rate_at(SCHEDULE, 2_000_000, 2_000_000) == rates[800_001]


def test_the_published_phases() -> None:
    phases = {phase.name: phase for phase in learning_rate_phases(SCHEDULE, 2_000_000)}
    assert list(phases) == ["warmup", "constant", "decay", "minimum"]
    assert phases["decay"].num_steps == 50_000
    assert phases["minimum"].num_steps == 1_200_000
    assert sum(phase.num_steps for phase in phases.values()) == 2_000_000


def test_a_null_decay_length_is_upstreams() -> None:
    schedule = LearningRateSection(learning_rate=1.0, lr_warmup_steps=10, lr_decay_starting_step=60, min_decay_lr=0.0)
    assert decay_span(schedule, train_steps=100) == (60, 150)
    assert learning_rate_at(schedule, 100, 100) == pytest.approx(1 - 39 / 90)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[LearningRateSection, int]:
    train_steps = draw(st.integers(2, 200))
    warmup = draw(st.integers(0, train_steps))
    peak = draw(st.floats(1e-6, 1.0))
    schedule = LearningRateSection(
        learning_rate=peak,
        lr_warmup_steps=warmup,
        lr_warmup_style=draw(st.sampled_from(["linear", "constant"])),
        lr_decay_style=draw(st.sampled_from(["linear", "cosine"])),
        lr_decay_starting_step=draw(st.none() | st.integers(warmup, 250)),
        lr_decay_steps=draw(st.none() | st.integers(0 if warmup else 1, 250)),
        min_decay_lr=draw(st.none() | st.floats(0, peak)),
    )
    return schedule, train_steps


ABRUPT = LearningRateSection(
    learning_rate=0.5, lr_warmup_steps=1, lr_decay_starting_step=3, lr_decay_steps=0, min_decay_lr=0.1
)
"""A warmup of one step, a decay of none."""


@given(schedules())
@example((ABRUPT, 6))
@settings(max_examples=150, deadline=None)
def test_every_learning_rate_is_upstreams_value_for_value(case: tuple[LearningRateSection, int]) -> None:
    schedule, train_steps = case
    multiplier = upstream_schedule(schedule, train_steps)
    for step in range(1, train_steps + 1):
        assert learning_rate_at(schedule, step, train_steps) == schedule.learning_rate * multiplier(step - 1)


@given(schedules())
@settings(max_examples=150, deadline=None)
def test_phases_cover_every_step_once_and_start_and_end_as_they_say(case: tuple[LearningRateSection, int]) -> None:
    schedule, train_steps = case
    phases = learning_rate_phases(schedule, train_steps)
    steps = [step for phase in phases for step in range(phase.first_step, phase.last_step + 1)]
    assert steps == list(range(1, train_steps + 1))
    for phase in phases:
        rates = [learning_rate_at(schedule, step, train_steps) for step in range(phase.first_step, phase.last_step + 1)]
        assert (rates[0], rates[-1]) == (phase.first_rate, phase.last_rate)
        if phase.name == "warmup":
            assert rates == sorted(rates)
        elif phase.name == "decay":
            assert rates == sorted(rates, reverse=True)
        else:
            assert len(set(rates)) == 1


def upstream_schedule(schedule: LearningRateSection, train_steps: int) -> Callable[[int], float]:
    """Return upstream's lr_lambda: what LambdaLR multiplies the base rate with after n updates."""
    names = {
        "math": math,
        "partial": functools.partial,
        # Upstream main makes one function per parameter group.
        "LambdaLR": lambda optimizer, lr_lambda: lr_lambda[0] if isinstance(lr_lambda, list) else lr_lambda,
        "log_rank": lambda *arguments, **named: None,
        "logging": logging,
        "logger": None,
    }
    builder = upstream_function("helpers.py", "lr_scheduler_builder", names)
    arguments = SimpleNamespace(**dataclasses.asdict(schedule))
    # What upstream's configuration fills in: LRSchedulerArgs.__post_init__ and Config.__post_init__.
    if arguments.min_decay_lr is None:
        arguments.min_decay_lr = arguments.learning_rate
    if arguments.lr_decay_steps is None:
        arguments.lr_decay_steps = train_steps - arguments.lr_warmup_steps
    optimizer = SimpleNamespace(param_groups=[{"lr": schedule.learning_rate}])
    return builder(SimpleNamespace(get_base_optimizer=lambda: optimizer), arguments, train_steps)
