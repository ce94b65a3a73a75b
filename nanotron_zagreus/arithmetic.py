"""Count what a configuration costs: parameters, FLOPs, learning rate, memory, checkpoints, time. Pure Python.

Every formula names its source. Nothing here reads a file or imports torch; `plan` puts the figures together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanotron_zagreus.config.model import ModelConfigSection
from nanotron_zagreus.config.optimizer import LearningRateSection

A100_PEAK_FLOPS = 312e12
"""bf16 tensor-core FLOP/s without sparsity of an A100 (NVIDIA A100 datasheet), the published run's GPU."""

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters by part of the model."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    output_head: int
    """Zero when the head is tied to the embedding."""

    @property
    def total(self) -> int:
        """All parameters, tied ones once."""
        return self.embedding + self.attention + self.mlp + self.norms + self.output_head

    @property
    def in_matrices_of_blocks(self) -> int:
        """Parameters that multiply activations inside the decoder blocks."""
        return self.attention + self.mlp


def count_parameters(model: ModelConfigSection, num_vocab_rows: int | None = None) -> ParameterCount:
    """Count the parameters of ``model``.

    Args:
        model: the architecture; no biases, two norms a block and one at the end (Llama).
        num_vocab_rows: rows of the embedding, padding included; None: vocab_size.
    """
    hidden, layers = model.hidden_size, model.num_hidden_layers
    rows = model.vocab_size if num_vocab_rows is None else num_vocab_rows
    return ParameterCount(
        embedding=rows * hidden,
        attention=layers * (2 * model.query_parameters + model.key_value_parameters),
        mlp=layers * 3 * model.mlp_parameters,
        norms=(2 * layers + 1) * hidden,
        output_head=0 if model.tie_word_embeddings else rows * hidden,
    )


@dataclass(frozen=True, kw_only=True)
class FlopsPerToken:
    """FLOPs that one token costs in training: forward, and twice as much backward (Kaplan et al., arXiv:2001.08361)."""

    blocks: float
    output_head: float
    full_attention: float
    """Scores and weighted values over the whole sequence."""
    causal_attention: float
    """The same over the positions that a causal mask leaves: (sequence_length + 1) / 2 on average."""

    @property
    def causal(self) -> float:
        """What a causal model has to compute."""
        return self.blocks + self.output_head + self.causal_attention

    @property
    def nanotron(self) -> float:
        """Nanotron's convention (models/llama.py, get_flops): attention counted without the mask."""
        return self.blocks + self.output_head + self.full_attention


def count_flops_per_token(model: ModelConfigSection, sequence_length: int) -> FlopsPerToken:
    """Count training FLOPs per token: 6 per parameter that multiplies, 12 x width x length per attention layer.

    Sources: PaLM (arXiv:2204.02311), appendix B; Nanotron's get_flops. The embedding look-up multiplies nothing.
    """
    width = model.num_attention_heads * model.head_dim
    full = 12.0 * model.num_hidden_layers * width * sequence_length
    return FlopsPerToken(
        blocks=6.0 * count_parameters(model).in_matrices_of_blocks,
        output_head=6.0 * model.hidden_size * model.vocab_size,
        full_attention=full,
        causal_attention=full * (sequence_length + 1) / (2 * sequence_length),
    )


def decay_span(schedule: LearningRateSection, train_steps: int) -> tuple[int, int]:
    """Return (first, past the last) scheduler step of the decay, upstream's defaults filled in.

    A null lr_decay_steps becomes train_steps - lr_warmup_steps wherever the decay starts (nanotron 0.4,
    config/config.py:315), so with lr_decay_starting_step set such a decay does not finish.
    """
    steps = train_steps - schedule.lr_warmup_steps if schedule.lr_decay_steps is None else schedule.lr_decay_steps
    start = schedule.lr_warmup_steps if schedule.lr_decay_starting_step is None else schedule.lr_decay_starting_step
    return start, start + steps


def learning_rate_at(schedule: LearningRateSection, step: int, train_steps: int) -> float:
    """Return the learning rate that optimizer step ``step`` (counted from 1) uses, upstream's value for value.

    Step t uses the scheduler's value after t - 1 updates, so with a linear warmup step 1 trains at 0
    (nanotron 0.4, helpers.py:76 lr_scheduler_builder; torch's LambdaLR multiplies the base rate).
    """
    peak = schedule.learning_rate
    lowest = peak if schedule.min_decay_lr is None else schedule.min_decay_lr
    start, end = decay_span(schedule, train_steps)
    updates, decay_steps = step - 1, end - start
    if updates <= schedule.lr_warmup_steps:
        warming = schedule.lr_warmup_style == "linear"
        rate = peak * updates / max(schedule.lr_warmup_steps, 1) if warming else peak
    elif updates < start:
        rate = peak
    elif updates >= end:
        rate = lowest
    elif schedule.lr_decay_style == "cosine":
        rate = lowest + (peak - lowest) * (1 + math.cos(math.pi * (updates - start) / decay_steps)) / 2
    else:
        rate = lowest + (peak - lowest) * (decay_steps - (updates - start)) / decay_steps
    return peak * (rate / peak)


@dataclass(frozen=True, kw_only=True)
class LearningRatePhase:
    """Consecutive steps of one phase of the schedule."""

    name: str
    first_step: int
    last_step: int
    first_rate: float
    last_rate: float

    @property
    def num_steps(self) -> int:
        """Steps in the phase."""
        return self.last_step - self.first_step + 1


def learning_rate_phases(schedule: LearningRateSection, train_steps: int) -> tuple[LearningRatePhase, ...]:
    """Return the phases that ``train_steps`` steps reach: warmup, constant, decay, minimum; empty ones left out."""
    start, end = decay_span(schedule, train_steps)
    warmup_end = schedule.lr_warmup_steps + 1  # upstream warms up while updates <= lr_warmup_steps
    if schedule.min_decay_lr in (None, schedule.learning_rate):
        start = end = train_steps
    decay_start = max(start, warmup_end)
    bounds = (
        ("warmup", 1, warmup_end),
        ("constant", warmup_end + 1, decay_start),
        ("decay", decay_start + 1, end),
        ("minimum", max(end, decay_start) + 1, train_steps),
    )
    return tuple(
        LearningRatePhase(
            name=name,
            first_step=first,
            last_step=min(last, train_steps),
            first_rate=learning_rate_at(schedule, first, train_steps),
            last_rate=learning_rate_at(schedule, min(last, train_steps), train_steps),
        )
        for name, first, last in bounds
        if first <= min(last, train_steps)
    )


def tokens_per_second_per_gpu(flops_per_token: float, utilisation: float) -> float:
    """Return the tokens per second of one A100 that computes at ``utilisation`` (0 to 1) of its peak."""
    return utilisation * A100_PEAK_FLOPS / flops_per_token


def training_seconds(num_tokens: int, rate: float, num_gpus: int) -> float:
    """Return how long ``num_gpus`` take for ``num_tokens`` at ``rate`` tokens per second each."""
    return num_tokens / (rate * num_gpus)
