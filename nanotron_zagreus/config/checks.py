"""Relations between fields of the configuration, one named function each.

Every function raises InputError with the whole equation when a run could not start or would silently
train something else than the file says. What merely deserves a remark is a notice of `plan`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

from nanotron_zagreus.config.model import ExistingCheckpointSection
from nanotron_zagreus.config.pipeline import layers_per_pipeline_rank
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.errors import InputError


def check_relations(config: Config) -> None:
    """Run every relation that needs nothing but the configuration."""
    check_stages(config)
    check_tensor_parallel(config)
    check_pipeline_parallel(config)
    check_accumulation(config)
    check_schedule(config)
    check_positions(config)
    check_tokens(config)
    check_validation(config)
    check_attention(config)
    check_compilation(config)
    check_reduction(config)


def check_world_size(config: Config, world_size: int) -> None:
    """Refuse a launch whose number of ranks is not dp x tp x pp."""
    parallelism = config.parallelism
    if world_size != parallelism.world_size:
        raise InputError(
            f"parallelism: {world_size} ranks were launched, but dp x tp x pp = {parallelism.dp} x {parallelism.tp} "
            f"x {parallelism.pp} = {parallelism.world_size}; launch {parallelism.world_size} ranks or change dp"
        )


def check_stages(config: Config) -> None:
    """Refuse stages that are missing, out of order, doubled, or that never start."""
    stages = config.data_stages
    if not stages:
        raise InputError("data_stages: got no stage, expected at least one; its start_training_step is 1")
    if stages[0].start_training_step != 1:
        raise InputError(
            f"data_stages[0].start_training_step: got {stages[0].start_training_step}, the first stage starts at 1"
        )
    for index, (before, after) in enumerate(itertools.pairwise(stages), start=1):
        if after.start_training_step <= before.start_training_step:
            raise InputError(
                f"data_stages[{index}].start_training_step: got {after.start_training_step} after "
                f"{before.start_training_step}; stages stand in the order they start"
            )
    if stages[-1].start_training_step > config.tokens.train_steps:
        raise InputError(
            f"data_stages[{len(stages) - 1}].start_training_step: got {stages[-1].start_training_step}, after the "
            f"last step (tokens.train_steps = {config.tokens.train_steps}); remove the stage or train longer"
        )
    for name, times in Counter(stage.name for stage in stages).items():
        if times > 1:
            raise InputError(f"data_stages: {times} stages are named {name!r}; give each its own name")


def check_tensor_parallel(config: Config) -> None:
    """Refuse a tp that does not divide the heads, the FFN, or (under REDUCE_SCATTER) the sequence."""
    model, tp = config.model.model_config, config.parallelism.tp
    if tp == 1:
        return
    sizes = {
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.kv_heads,
        "intermediate_size": model.intermediate_size,
    }
    for name, size in sizes.items():
        if size % tp:
            common = math.gcd(*sizes.values())
            allowed = [n for n in range(1, common + 1) if common % n == 0]
            raise InputError(
                f"parallelism.tp: {name} / tp = {size} / {tp} is not whole; this model allows tp in {allowed}"
            )
    if config.parallelism.tp_mode == "REDUCE_SCATTER" and config.tokens.sequence_length % tp:
        raise InputError(
            f"tokens.sequence_length: {config.tokens.sequence_length} / tp = {config.tokens.sequence_length} / {tp} is "
            "not whole; tp_mode REDUCE_SCATTER splits the sequence over tp, use ALL_REDUCE or another sequence_length"
        )
    if config.parallelism.tp_linear_async_communication:
        raise InputError(
            f"parallelism.tp_linear_async_communication: got true at tp = {tp}; nanotron 0.4 computes a wrong input "
            "gradient there (tensor_parallel/functional.py:417), main's was never checked; set it to false"
        )


def check_pipeline_parallel(config: Config) -> None:
    """Refuse a pp that leaves a rank without a block, or without micro-batches to work on."""
    pp, model = config.parallelism.pp, config.model.model_config
    if pp == 1:
        return

    def is_divided(n: int) -> bool:
        return layers_per_pipeline_rank(model.num_hidden_layers, model.layer_cost, model.head_cost, n) is not None

    # Embedding, norm and head are blocks too; more ranks than blocks cannot be filled.
    most = model.num_hidden_layers + 3
    if pp > most or not is_divided(pp):
        raise InputError(
            f"parallelism.pp: got {pp}, and the engine divides {model.num_hidden_layers} layers of "
            f"{model.layer_cost:,} multiply-adds a token and an output head of {model.head_cost:,} so that the last "
            f"rank stays empty; this model allows pp in {[n for n in range(1, most + 1) if is_divided(n)]}"
        )
    accumulation = config.tokens.batch_accumulation_per_replica
    if config.parallelism.pp_engine == "1f1b" and accumulation < pp - 1:
        raise InputError(
            f"tokens.batch_accumulation_per_replica: got {accumulation} with pp {pp}; the 1f1b engine needs at least "
            f"pp - 1 = {pp - 1} micro-batches a step, raise it or use pp_engine afab"
        )


def check_accumulation(config: Config) -> None:
    """Refuse fp32 gradient accumulation for fp32 parameters, which the engine cannot do."""
    if config.model.dtype == "float32" and config.optimizer.accumulate_grad_in_fp32:
        raise InputError(
            "optimizer.accumulate_grad_in_fp32: got true with model.dtype float32; fp32 parameters accumulate in fp32 "
            "already (gradient_accumulator.py:184 refuses them), set it to false"
        )


def check_schedule(config: Config) -> None:
    """Refuse a decay inside the warmup, a warmup longer than the run, and the case upstream computes wrongly."""
    schedule = config.optimizer.learning_rate_scheduler
    start = schedule.lr_decay_starting_step
    if start is not None and start < schedule.lr_warmup_steps:
        raise InputError(
            f"optimizer.learning_rate_scheduler.lr_decay_starting_step: got {start}, inside the warmup of "
            f"{schedule.lr_warmup_steps} steps"
        )
    if schedule.lr_warmup_steps > config.tokens.train_steps:
        raise InputError(
            f"optimizer.learning_rate_scheduler.lr_warmup_steps: got {schedule.lr_warmup_steps}, more than "
            f"tokens.train_steps {config.tokens.train_steps}; shorten the warmup or train longer"
        )
    if schedule.lr_warmup_steps == 0 and schedule.lr_decay_steps == 0:
        raise InputError(
            "optimizer.learning_rate_scheduler.lr_decay_steps: got 0 with lr_warmup_steps 0, where upstream's schedule "
            "squares the learning rate (helpers.py:107); for a constant rate leave lr_decay_steps and min_decay_lr null"
        )


def check_positions(config: Config) -> None:
    """Refuse sequences longer than the positions the model declares (a fresh model only)."""
    positions, length = config.model.model_config.max_position_embeddings, config.tokens.sequence_length
    if length > positions and not isinstance(config.model.init_method, ExistingCheckpointSection):
        raise InputError(
            f"tokens.sequence_length: got {length}, more than max_position_embeddings {positions}; raise "
            "model.model_config.max_position_embeddings"
        )


def check_tokens(config: Config) -> None:
    """Refuse special tokens outside the vocabulary."""
    model = config.model.model_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(model, name)
        if token is not None and not 0 <= token < model.vocab_size:
            raise InputError(
                f"model.model_config.{name}: got {token}, outside the vocabulary 0 … {model.vocab_size - 1}"
            )


def check_validation(config: Config) -> None:
    """Refuse validation without windows held out for it."""
    if config.tokens.limit_val_batches and not config.zagreus.validation_windows_per_source:
        raise InputError(
            f"tokens.limit_val_batches: got {config.tokens.limit_val_batches} while "
            "zagreus.validation_windows_per_source is 0; set it to the windows to hold out of each source"
        )


def check_attention(config: Config) -> None:
    """Refuse document masking with a kernel that cannot keep documents apart."""
    attention = config.zagreus.attention
    if config.zagreus.document_masking and attention in ("cudnn", "flash", "flash_attn"):
        raise InputError(
            f"zagreus.attention: got {attention} with document_masking true; it does not keep documents apart here, "
            "use auto, varlen (GPU), per_document (CPU) or sdpa"
        )


def check_compilation(config: Config) -> None:
    """Refuse compiled layers that would hold the engine's collectives."""
    if config.zagreus.compile_blocks is True and config.parallelism.tp > 1:
        raise InputError(
            f"zagreus.compile_blocks: got true with parallelism.tp {config.parallelism.tp}; only layers without "
            "tensor-parallel collectives are compiled, set it to auto or false, or tp to 1"
        )


def check_reduction(config: Config) -> None:
    """Refuse to round gradients on their way that are not accumulated in fp32: they travel in model.dtype anyway."""
    if config.zagreus.gradient_reduction == "bfloat16" and not config.optimizer.accumulate_grad_in_fp32:
        raise InputError(
            "zagreus.gradient_reduction: got bfloat16 with optimizer.accumulate_grad_in_fp32 false, where gradients "
            f"travel in model.dtype ({config.model.dtype}); remove it, or accumulate in fp32"
        )
