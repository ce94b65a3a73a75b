"""Estimate the memory of one GPU by part, and the bytes of a checkpoint. Pure Python.

The figures are those of the fullest rank, counted from the tensors the engine and the model keep; the
allocator's fragmentation, NCCL's buffers and the CUDA context (a few GB) come on top.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from nanotron_zagreus.arithmetic import DTYPE_BYTES, count_parameters
from nanotron_zagreus.config.pipeline import layers_per_pipeline_rank
from nanotron_zagreus.config.reliability import CheckpointKeepingSection
from nanotron_zagreus.config.sections import CheckpointsSection, Config

_FP32_BYTES = 4
_MICRO_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_GPU_GIGABYTES = (80, 141)
"""A100 and H100, and H200, as NVIDIA's data sheets count them."""
_ROWS_PER_CHUNK = 2048
"""Tokens whose logits exist at once on a GPU: `model.linear_cross_entropy`'s constant, which needs torch to import."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the fullest GPU, by part."""

    parameters: int
    """In model.dtype."""
    gradients: int
    """In model.dtype, whole at the end of a backward pass: between replicas in DistributedDataParallel's buckets, which
    stay, and in micro-batches after which nothing travels beside them."""
    fp32_gradients: int
    """Accumulated gradients, with accumulate_grad_in_fp32."""
    fp32_parameters: int
    """Master weights, with accumulate_grad_in_fp32; spread over dp under ZeRO 1."""
    optimizer_moments: int
    """AdamW's two moments; spread over dp under ZeRO 1."""
    activations: int
    """What the decoder blocks keep for the backward pass."""
    logits: int
    """The output head's: logits, what the cross entropy makes of them, and gradients waiting for the backward pass."""
    workspace: int
    """What a decoder block's backward pass works in, as far as the head's logits, which are gone then, took less."""

    @property
    def total(self) -> int:
        """Sum of the parts: an upper estimate, not all peak at the same moment."""
        return sum(vars(self).values())


def estimate_memory(config: Config) -> MemoryEstimate:
    """Return the bytes each part takes on the fullest GPU, whichever pipeline rank that is.

    Source: the tensors of nanotron 0.4 (optim/gradient_accumulator.py, optim/zero.py, trainer.py _init_model).
    """
    estimates = [_estimate_rank(config, rank) for rank in range(config.parallelism.pp)]
    return max(estimates, key=lambda estimate: estimate.total)


def _estimate_rank(config: Config, pp_rank: int) -> MemoryEstimate:
    """Return the bytes on the GPUs of one pipeline rank."""
    optimizer, dp = config.optimizer, config.parallelism.dp
    accumulation = config.tokens.batch_accumulation_per_replica
    num_parameters = _num_parameters(config, pp_rank)
    dtype_bytes = DTYPE_BYTES[config.model.dtype]
    in_fp32 = optimizer.accumulate_grad_in_fp32
    replicas = dp if optimizer.zero_stage else 1
    moment_bytes = _FP32_BYTES if in_fp32 else dtype_bytes
    return MemoryEstimate(
        parameters=num_parameters * dtype_bytes,
        gradients=num_parameters * dtype_bytes * (2 if dp > 1 and accumulation > 1 else 1),
        fp32_gradients=num_parameters * _FP32_BYTES if in_fp32 else 0,
        fp32_parameters=num_parameters * _FP32_BYTES // replicas if in_fp32 else 0,
        optimizer_moments=2 * num_parameters * moment_bytes // replicas,
        activations=_activation_bytes(config, pp_rank),
        logits=_logits_bytes(config) if pp_rank == config.parallelism.pp - 1 else 0,
        workspace=_workspace_bytes(config, pp_rank),
    )


def headroom(config: Config) -> dict[int, tuple[int, int]]:
    """Return micro-batch size -> bytes on the fullest GPU: (activations kept, recomputed)."""
    return {size: (_total(config, size, False), _total(config, size, True)) for size in _MICRO_BATCH_SIZES}


def largest_micro_batch_sizes(config: Config) -> dict[int, tuple[int, int]]:
    """Return GB of a GPU's memory -> largest micro-batch size that fits: (activations kept, recomputed).

    0 where not even one sequence fits. What CUDA keeps for itself, about 1 GB, is not counted.
    """
    return {
        gigabytes: (_largest(config, gigabytes * 10**9, False), _largest(config, gigabytes * 10**9, True))
        for gigabytes in _GPU_GIGABYTES
    }


def _largest(config: Config, capacity: int, recompute: bool) -> int:
    """Return the largest size that fits; the estimate grows with it, so the range is halved until one is left."""
    fits, too_many = 0, 1
    while _total(config, too_many, recompute) <= capacity:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if _total(config, middle, recompute) <= capacity else (fits, middle)
    return fits


def _total(config: Config, micro_batch_size: int, recompute: bool) -> int:
    changed = dataclasses.replace(
        config,
        tokens=dataclasses.replace(config.tokens, micro_batch_size=micro_batch_size),
        parallelism=dataclasses.replace(config.parallelism, recompute_layer=recompute),
    )
    return estimate_memory(changed).total


def checkpoint_bytes(config: Config) -> int:
    """Return the bytes of one checkpoint: parameters, both moments, and the fp32 master weights where there are any."""
    num_parameters = count_parameters(config.model.model_config, config.padded_vocab_size).total
    dtype_bytes = DTYPE_BYTES[config.model.dtype]
    state_bytes = 3 * _FP32_BYTES if config.optimizer.accumulate_grad_in_fp32 else 2 * dtype_bytes
    return num_parameters * (dtype_bytes + state_bytes)


def num_saves(config: Config) -> int:
    """Return how many checkpoints a whole run writes."""
    checkpoints, steps = config.checkpoints, config.tokens.train_steps
    at_intervals = steps // checkpoints.checkpoint_interval
    last = checkpoints.save_final_state and steps % checkpoints.checkpoint_interval != 0
    return at_intervals + bool(checkpoints.save_initial_state) + last


def num_kept(checkpoints: CheckpointsSection, keeping: CheckpointKeepingSection, train_steps: int) -> int:
    """Return how many checkpoints are left of a whole run: the newest keep_last, and the multiples of keep_every."""
    interval, first = checkpoints.checkpoint_interval, int(checkpoints.save_initial_state)
    final = int(checkpoints.save_final_state and train_steps % interval != 0)
    regular = train_steps // interval
    if keeping.keep_last is None or keeping.keep_last >= first + regular + final:
        return first + regular + final
    if keeping.keep_every is None:
        return keeping.keep_last
    # The steps before the newest ones: step 0 and the regular ones up to this many, or neither.
    older = regular + final - keeping.keep_last
    return keeping.keep_last + first + older * interval // math.lcm(interval, keeping.keep_every)


def _layers_of(config: Config) -> list[int]:
    """Return the decoder layers of each pipeline rank."""
    model = config.model.model_config
    layers = layers_per_pipeline_rank(model.num_hidden_layers, model.layer_cost, model.head_cost, config.parallelism.pp)
    assert layers is not None, "checks.check_pipeline_parallel refuses such a pp"
    return layers


def _num_parameters(config: Config, pp_rank: int) -> int:
    """Count the parameters on one GPU of a pipeline rank; tied ends on two ranks are two copies."""
    tp, pp = config.parallelism.tp, config.parallelism.pp
    model = config.model.model_config
    rows = config.padded_vocab_size * model.hidden_size
    is_first, is_last = pp_rank == 0, pp_rank == pp - 1
    tied_here = model.tie_word_embeddings and is_first and is_last
    num_layers = _layers_of(config)[pp_rank]
    matrices = num_layers * model.layer_cost + (is_first + is_last - tied_here) * rows
    return matrices // tp + (2 * num_layers + is_last) * model.hidden_size


def _activation_bytes(config: Config, pp_rank: int) -> int:
    """Count what the blocks keep per token, in the manner of Korthikanti et al. (arXiv:2205.05198), section 4.

    Kept per token and block by `model/`: queries and keys after the rotation, values, the attention's output, gate and
    up. Compiled blocks keep besides only their input and what the attention adds to it; they are counted so where they
    are meant to be, and a warning says where they could not be compiled. Uncompiled ones keep at each of the two norms
    the input in fp32, the normalised input and the output, and SiLU of gate and its product with up. The attention
    keeps no scores.
    """
    model, parallelism, tokens = config.model.model_config, config.parallelism, config.tokens
    dtype_bytes = DTYPE_BYTES[config.model.dtype]
    width = model.num_attention_heads * model.head_dim
    compiled = config.compiles_blocks("cuda")
    around_norms = 2 * model.hidden_size * (dtype_bytes if compiled else _FP32_BYTES + 2 * dtype_bytes)
    from_swiglu = (2 if compiled else 4) * model.intermediate_size
    inside = dtype_bytes * (2 * width + 2 * model.kv_heads * model.head_dim + from_swiglu)
    spread = parallelism.tp if parallelism.tp_mode == "REDUCE_SCATTER" else 1
    per_block = around_norms / spread + inside / parallelism.tp
    num_layers = _layers_of(config)[pp_rank]
    kept = num_layers * per_block
    if parallelism.recompute_layer and num_layers:
        kept = num_layers * model.hidden_size * dtype_bytes / spread + per_block
    num_tokens = tokens.micro_batch_size * tokens.sequence_length
    return math.ceil(_micro_batches_in_flight(config, pp_rank) * num_tokens * kept)


def _workspace_bytes(config: Config, pp_rank: int) -> int:
    """Count what a block's backward pass makes and gives back: around SwiGLU, its fullest moment.

    The gradients of gate, up and their product, the product, and three hidden states.
    """
    model, tokens, dtype_bytes = config.model.model_config, config.tokens, DTYPE_BYTES[config.model.dtype]
    num_tokens = tokens.micro_batch_size * tokens.sequence_length
    made = num_tokens * dtype_bytes * (4 * model.intermediate_size + 3 * model.hidden_size) // config.parallelism.tp
    is_last = pp_rank == config.parallelism.pp - 1
    return max(0, made - (_chunk_bytes(config) if is_last else 0))


def _micro_batches_in_flight(config: Config, pp_rank: int) -> int:
    """Count the micro-batches whose activations a pipeline rank holds at once (Narayanan et al., arXiv:2104.04473)."""
    accumulation, pp = config.tokens.batch_accumulation_per_replica, config.parallelism.pp
    if config.parallelism.pp_engine == "afab" and pp > 1:
        return accumulation
    return min(pp - pp_rank, accumulation)


def _logits_bytes(config: Config) -> int:
    """Count what `model/`'s output head holds at its peak on a GPU.

    Plain, in the backward pass: all tokens' logits and their gradient in model.dtype, log-softmax and its gradient in
    fp32; in fp32 one of these is another. Chunked: one chunk's logits in model.dtype, which become their own gradient
    in place, and per micro-batch in flight the gradients that wait: of the weight in fp32, of the hidden states in
    model.dtype. Where the chunks cannot be compiled (a warning says so), fp32 copies of one come on top.
    """
    tokens, dtype_bytes = config.tokens, DTYPE_BYTES[config.model.dtype]
    num_tokens = tokens.micro_batch_size * tokens.sequence_length
    columns = math.ceil(config.padded_vocab_size / config.parallelism.tp)
    if config.zagreus.cross_entropy == "plain":
        return num_tokens * columns * min(2 * (dtype_bytes + _FP32_BYTES), 3 * _FP32_BYTES)
    waiting = config.model.model_config.hidden_size * (columns * _FP32_BYTES + num_tokens * dtype_bytes)
    in_flight = _micro_batches_in_flight(config, config.parallelism.pp - 1)
    return _chunk_bytes(config) + in_flight * waiting


def _chunk_bytes(config: Config) -> int:
    """Count the logits that exist at once in model.dtype."""
    rows = config.tokens.micro_batch_size * config.tokens.sequence_length
    if config.zagreus.cross_entropy == "chunked":
        rows = min(rows, _ROWS_PER_CHUNK)
    return rows * math.ceil(config.padded_vocab_size / config.parallelism.tp) * DTYPE_BYTES[config.model.dtype]
