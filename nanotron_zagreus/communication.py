"""Model the gradient traffic of a step on a given network: how much there is, and how much of it training waits for.

Pure Python. Sources: the ring all-reduce moves 2 (n - 1) / n of the data through every link (Patarasuk and Yuan 2009;
NCCL tests, PERFORMANCE.md), and of a node's links its network is the slowest; DistributedDataParallel reduces
buckets in the order in which gradients become ready while the backward pass goes on (Li et al., arXiv:2006.15704).
Latency and the sharing of the network with others are left out: give the bandwidth that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanotron_zagreus.arithmetic import DTYPE_BYTES, count_flops_per_token
from nanotron_zagreus.config.sections import Config
from nanotron_zagreus.errors import InputError

_MEBIBYTE = 2**20
_FIRST_BUCKET_BYTES = _MEBIBYTE
"""torch.distributed: the first bucket is small, so that reducing starts early."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What connects the nodes."""

    gigabits_per_second: float
    """Bandwidth of one node in each direction, all its adapters together."""
    gpus_per_node: int

    def __post_init__(self) -> None:
        if not self.gigabits_per_second > 0:
            raise InputError(f"--network-gbits: got {self.gigabits_per_second}, expected a positive number")
        if self.gpus_per_node < 1:
            raise InputError(f"--gpus-per-node: got {self.gpus_per_node}, expected a whole number >= 1")

    def all_reduce_seconds(self, num_bytes: float, num_ranks: int) -> float:
        """Return how long a ring all-reduce of ``num_bytes`` over ``num_ranks`` replicas on many nodes takes."""
        return 2 * (num_ranks - 1) / num_ranks * num_bytes / (self.gigabits_per_second * 1e9 / 8)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Gradients that are reduced together."""

    num_parameters: int
    ready_seconds: float
    """From the start of the layers' backward pass until the last of them is there."""


@dataclass(frozen=True, kw_only=True)
class Communication:
    """The modelled gradient traffic of one step."""

    bytes_per_step: int
    """Gradients of one replica, each counted once."""
    last_ready_share: float
    """Share of them in the gradient that is ready last: the embedding's."""
    num_buckets: int
    reduce_seconds: float
    """What the network is busy with them."""
    exposed_seconds: float
    """How long after the end of the backward pass it still is: training waits."""
    exposed_seconds_in_bf16: float
    """The same if gradients travelled in bf16."""
    step_seconds: float
    """Compute of a step, and what is exposed."""


def model_communication(config: Config, network: Network, rate: float) -> Communication | None:
    """Return the gradient traffic of a step; None where none leaves a node, or for pp > 1, which is not modelled.

    Args:
        config: the run.
        network: what connects the nodes.
        rate: tokens per second and GPU, communication aside.
    """
    parallelism = config.parallelism
    if parallelism.dp == 1 or parallelism.pp > 1 or parallelism.world_size <= network.gpus_per_node:
        return None
    # A step's compute: the world's rate is shared by the tensor-parallel ranks of a replica.
    micro_batch_tokens = config.tokens.micro_batch_size * config.tokens.sequence_length
    micro_batch_seconds = micro_batch_tokens / (rate * parallelism.tp)
    buckets = make_buckets(config, _backward_seconds(config, micro_batch_seconds))
    num_parameters = sum(bucket.num_parameters for bucket in buckets)
    in_fp32 = config.optimizer.accumulate_grad_in_fp32
    element_bytes = DTYPE_BYTES[config.zagreus.gradient_reduction if in_fp32 else config.model.dtype]
    exposed = _exposed_seconds(config, network, buckets, element_bytes)
    compute = micro_batch_seconds * config.tokens.batch_accumulation_per_replica
    return Communication(
        bytes_per_step=num_parameters * element_bytes,
        last_ready_share=_embedding_parameters(config) / num_parameters,
        num_buckets=len(buckets),
        reduce_seconds=network.all_reduce_seconds(num_parameters * element_bytes, parallelism.dp),
        exposed_seconds=exposed,
        exposed_seconds_in_bf16=_exposed_seconds(config, network, buckets, DTYPE_BYTES["bfloat16"]),
        step_seconds=compute + exposed,
    )


def make_buckets(config: Config, backward_seconds: float) -> list[Bucket]:
    """Return DistributedDataParallel's buckets: a bucket is full once it reaches `model.ddp_bucket_cap_mb`.

    Gradients come in the backward pass's order: an untied head at its start, then layer after layer in equal time,
    the embedding's, tied or not, at its end.
    """
    model, dtype_bytes = config.model.model_config, DTYPE_BYTES[config.model.dtype]
    layers = model.num_hidden_layers
    gradients = [] if model.tie_word_embeddings else [(_embedding_parameters(config), 0.0)]
    gradients.append((model.hidden_size, 0.0))
    for layer in range(1, layers + 1):
        ready = backward_seconds * layer / layers
        gradients += [(num, ready) for num in _matrices_of_a_layer(config)]
    gradients.append((_embedding_parameters(config), backward_seconds))
    buckets: list[Bucket] = []
    held, limit = 0, _FIRST_BUCKET_BYTES
    for num_parameters, ready in gradients:
        held += num_parameters
        if held * dtype_bytes >= limit:
            buckets.append(Bucket(num_parameters=held, ready_seconds=ready))
            held, limit = 0, config.model.ddp_bucket_cap_mb * _MEBIBYTE
    if held:
        buckets.append(Bucket(num_parameters=held, ready_seconds=backward_seconds))
    return buckets


def _exposed_seconds(config: Config, network: Network, buckets: list[Bucket], element_bytes: int) -> float:
    """Return how long the network works on after the backward pass, one bucket after the other."""
    free_at = 0.0
    for bucket in buckets:
        started = max(free_at, bucket.ready_seconds)
        free_at = started + network.all_reduce_seconds(bucket.num_parameters * element_bytes, config.parallelism.dp)
    gathered = 0.0
    if config.optimizer.zero_stage:
        # The updated weights travel back: one half of an all-reduce, in the model's dtype.
        weight_bytes = sum(bucket.num_parameters for bucket in buckets) * DTYPE_BYTES[config.model.dtype]
        gathered = network.all_reduce_seconds(weight_bytes, config.parallelism.dp) / 2
    return free_at - buckets[-1].ready_seconds + gathered


def _backward_seconds(config: Config, micro_batch_seconds: float) -> float:
    """Return the layers' backward pass: two of three parts of their time, three of four when they are recomputed."""
    flops = count_flops_per_token(config.model.model_config, config.tokens.sequence_length)
    layers = micro_batch_seconds * (1 - flops.output_head / flops.causal)
    return layers * (3 / 4 if config.parallelism.recompute_layer else 2 / 3)


def _embedding_parameters(config: Config) -> int:
    return config.padded_vocab_size * config.model.model_config.hidden_size


def _matrices_of_a_layer(config: Config) -> tuple[int, ...]:
    """Return the parameters of a layer's tensors in the backward pass's order; all tp ranks' share the links."""
    model = config.model.model_config
    queries, mlp, norm = model.query_parameters, model.mlp_parameters, model.hidden_size
    return mlp, 2 * mlp, norm, queries, queries + model.key_value_parameters, norm
