"""Put together what a configuration will do before anything starts: sizes, tokens, stages, rates, memory, notices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nanotron_zagreus.arithmetic import (
    FlopsPerToken,
    LearningRatePhase,
    ParameterCount,
    count_flops_per_token,
    count_parameters,
    learning_rate_phases,
)
from nanotron_zagreus.communication import Communication, Network, model_communication
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.memory import (
    MemoryEstimate,
    checkpoint_bytes,
    estimate_memory,
    headroom,
    largest_micro_batch_sizes,
    num_kept,
    num_saves,
)
from nanotron_zagreus.notices import keeps_checkpoints_per_node, machine_notices, notices


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One data stage: its steps, its tokens, its sources."""

    name: str
    first_step: int
    last_step: int
    num_tokens: int
    sources: tuple[str, ...]
    mixture: str
    """What decides the shares: weights, groups, or the sources' sizes."""
    shares: tuple[float, ...] | None
    """Sampling share of each source, summing to one; None: known only once the shards are read."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything `zagreus check` says about a configuration."""

    run: str
    parameters: ParameterCount
    world_size: int
    samples_per_step: int
    tokens_per_step: int
    num_steps: int
    num_tokens: int
    stages: tuple[StagePlan, ...]
    learning_rate_phases: tuple[LearningRatePhase, ...]
    flops_per_token: FlopsPerToken
    memory_per_gpu: MemoryEstimate
    memory_by_micro_batch_size: dict[int, tuple[int, int]]
    """Bytes on the fullest GPU for other micro-batch sizes: activations kept, and recomputed (recompute_layer)."""
    largest_micro_batch_sizes: dict[int, tuple[int, int]]
    """The largest that fits into a GPU of so many GB: activations kept, and recomputed."""
    checkpoint_bytes: int
    num_checkpoints: int
    num_checkpoints_kept: int
    """How many of them are left at the end, by zagreus.checkpoints.keep_last and keep_every."""
    checkpoints_on_every_node: bool
    """Whether each node keeps them all for itself, without a shared file system."""
    communication: Communication | None
    """Gradient traffic on the network that was asked about; None: none asked about, or nothing to model."""
    notices: tuple[str, ...]
    machine_notices: tuple[str, ...]
    """What this machine lacks, which another one may have, and what is to be said of the files that are here."""

    def as_data(self) -> dict[str, Any]:
        """Return the plan as JSON data, totals included."""
        data = asdict(self)
        data["parameters"]["total"] = self.parameters.total
        data["memory_per_gpu"]["total"] = self.memory_per_gpu.total
        data["flops_per_token"] |= {"causal": self.flops_per_token.causal, "nanotron": self.flops_per_token.nanotron}
        return data


def make_plan(config: Config, network: Network | None = None, rate: float | None = None) -> TrainingPlan:
    """Return the plan of a checked configuration; looks for data and tokenizer on this machine, starts nothing.

    Args:
        config: the checked configuration.
        network: what connects the nodes, to model the gradient traffic on; None: leave it out.
        rate: with ``network``, tokens per second and GPU without communication.
    """
    model, tokens = config.model.model_config, config.tokens
    communication = None if network is None or rate is None else model_communication(config, network, rate)
    return TrainingPlan(
        run=config.general.run,
        parameters=count_parameters(model, config.padded_vocab_size),
        world_size=config.parallelism.world_size,
        samples_per_step=config.samples_per_step,
        tokens_per_step=config.tokens_per_step,
        num_steps=tokens.train_steps,
        num_tokens=tokens.train_steps * config.tokens_per_step,
        stages=_stage_plans(config),
        learning_rate_phases=learning_rate_phases(config.optimizer.learning_rate_scheduler, tokens.train_steps),
        flops_per_token=count_flops_per_token(model, tokens.sequence_length),
        memory_per_gpu=estimate_memory(config),
        memory_by_micro_batch_size=headroom(config),
        largest_micro_batch_sizes=largest_micro_batch_sizes(config),
        checkpoint_bytes=checkpoint_bytes(config),
        num_checkpoints=num_saves(config),
        num_checkpoints_kept=num_kept(config.checkpoints, config.zagreus.checkpoints, tokens.train_steps),
        checkpoints_on_every_node=keeps_checkpoints_per_node(config),
        communication=communication,
        notices=notices(config),
        machine_notices=machine_notices(config),
    )


def _stage_plans(config: Config) -> tuple[StagePlan, ...]:
    starts = [stage.start_training_step for stage in config.data_stages]
    ends = [start - 1 for start in starts[1:]] + [config.tokens.train_steps]
    plans = []
    for stage, last in zip(config.data_stages, ends, strict=True):
        weights, groups = stage.data.dataset.weights, stage.data.dataset.dataset_groups
        plans.append(
            StagePlan(
                name=stage.name,
                first_step=stage.start_training_step,
                last_step=last,
                num_tokens=(last - stage.start_training_step + 1) * config.tokens_per_step,
                sources=tuple(map(str, stage.data.dataset.folders)),
                mixture="by weight" if weights else "by group" if groups else "by size",
                shares=None if weights is None else tuple(weight / sum(weights) for weight in weights),
            )
        )
    return tuple(plans)
