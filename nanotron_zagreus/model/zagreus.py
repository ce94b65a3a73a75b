"""ZagreusForTraining: the Llama-style decoder as a pipeline of the engine's blocks.

Parameter names are upstream Llama's, so that checkpoints keep Nanotron's layout. Every pipeline rank gets
the whole micro-batch from the loader, so only hidden states travel between ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.models.base import NanotronModel
from nanotron.parallel.parameters import NanotronParameter
from nanotron.parallel.pipeline_parallel.block import PipelineBlock
from nanotron.parallel.pipeline_parallel.p2p import P2P
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer
from nanotron.parallel.tensor_parallel.nn import TensorParallelEmbedding, TensorParallelRowLinear
from torch import nn

from nanotron_zagreus.model.config import ModelOptions, ZagreusConfig
from nanotron_zagreus.model.decoder import DecoderLayer, Positions
from nanotron_zagreus.model.documents import documents_of
from nanotron_zagreus.model.head import LanguageModelHead, is_sequence_first, tp_mode_of
from nanotron_zagreus.model.initialization import full_normal, row_parallel_std
from nanotron_zagreus.model.rms_norm import RMSNorm
from nanotron_zagreus.model.rope import RotaryTables

EMBEDDING_NAME = "model.token_position_embeddings.pp_block.token_embedding.weight"
LM_HEAD_NAME = "model.lm_head.pp_block.weight"


class Embedding(nn.Module):
    """Token embedding; takes `[batch, sequence]`, returns hidden states as `decoder` says."""

    def __init__(self, config: ZagreusConfig, parallel_config: Any, tp_pg: Any) -> None:
        super().__init__()
        self.sequence_first = is_sequence_first(parallel_config, tp_pg)
        self.token_embedding = TensorParallelEmbedding(
            num_embeddings=config.vocab_size,
            embedding_dim=config.hidden_size,
            pg=tp_pg,
            mode=tp_mode_of(parallel_config),
        )

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden_states": self.token_embedding(input_ids.transpose(0, 1) if self.sequence_first else input_ids)}


class ZagreusModel(nn.Module):
    """The graph of pipeline blocks, from token ids to the loss."""

    def __init__(
        self, config: ZagreusConfig, parallel_context: Any, parallel_config: Any, options: ModelOptions
    ) -> None:
        super().__init__()
        tp_pg = parallel_context.tp_pg
        self._rotary = RotaryTables(config.head_dim, config.rope_theta)
        self.p2p = P2P(parallel_context.pp_pg, device=_device())
        shared = {"config": config, "parallel_config": parallel_config, "tp_pg": tp_pg}
        self.token_position_embeddings = self._block(Embedding, shared, {"input_ids"}, {"hidden_states"})
        layer = {**shared, "options": options}
        self.decoder = nn.ModuleList(
            self._block(DecoderLayer, layer, {"hidden_states", "positions"}, {"hidden_states"})
            for _ in range(config.num_hidden_layers)
        )
        norm = {"hidden_size": config.hidden_size, "eps": config.rms_norm_eps, "compiled": options.compile_blocks}
        self.final_layer_norm = self._block(RMSNorm, norm, {"input"}, {"hidden_states"})
        head = {
            "hidden_size": config.hidden_size,
            "padded_vocab_size": config.vocab_size,
            "vocab_size": options.vocab_size,
            "pg": tp_pg,
            "mode": tp_mode_of(parallel_config),
            "chunked": options.cross_entropy == "chunked",
        }
        self.lm_head = self._block(LanguageModelHead, head, {"x", "label_ids", "label_mask", "num_labels"}, {"loss"})

    def _block(self, builder: type, kwargs: dict[str, Any], inputs: set[str], outputs: set[str]) -> PipelineBlock:
        return PipelineBlock(
            p2p=self.p2p,
            module_builder=builder,
            module_kwargs=kwargs,
            module_input_keys=inputs,
            module_output_keys=outputs,
        )

    def positions(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, document_offsets: torch.Tensor | None
    ) -> Positions:
        """Return what all layers need to know about a micro-batch's positions; arguments as of ZagreusForTraining."""
        cos, sin = self._rotary.at(input_ids.shape[1], input_ids.device)
        if position_ids is None:
            return Positions(cos, sin)
        return Positions(cos[position_ids], sin[position_ids], documents_of(position_ids, document_offsets))

    def hidden_states(self, input_ids: torch.Tensor, positions: Positions) -> torch.Tensor | TensorPointer:
        """Return the normalised hidden states, in the order of dimensions `decoder` says, where this rank has them."""
        first = self.token_position_embeddings
        hidden = first(input_ids=self._local(first, input_ids))["hidden_states"]
        for layer in self.decoder:
            hidden = layer(hidden_states=hidden, positions=self._local(layer, positions))["hidden_states"]
        return self.final_layer_norm(input=hidden)["hidden_states"]

    def forward(
        self,
        input_ids: torch.Tensor,
        label_ids: torch.Tensor,
        label_mask: torch.Tensor,
        positions: Positions,
        num_labels: torch.Tensor | None,
    ) -> torch.Tensor | TensorPointer:
        """Return the loss, or a pointer to the rank that has it."""
        head = self.lm_head
        return head(
            x=self.hidden_states(input_ids, positions),
            label_ids=self._local(head, label_ids),
            label_mask=self._local(head, label_mask),
            num_labels=self._local(head, num_labels),
        )["loss"]

    def _local(self, block: PipelineBlock, value: Any) -> Any:
        """Return ``value`` on the block's own rank; elsewhere say that the block's rank has it, so nothing is sent."""
        return value if block.rank == dist.get_rank(self.p2p.pg) else TensorPointer(group_rank=block.rank)


class ZagreusForTraining(NanotronModel):
    """What the engine trains; registered for ZagreusConfig in its table of model classes."""

    def __init__(
        self,
        config: ZagreusConfig,
        parallel_context: Any,
        parallel_config: Any,
        random_states: Any = None,
        options: ModelOptions | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.parallel_context = parallel_context
        self.parallel_config = parallel_config
        self.options = options or ModelOptions(vocab_size=config.vocab_size)
        self.model = ZagreusModel(config, parallel_context, parallel_config, self.options)

    def forward(
        self,
        input_ids: torch.Tensor,
        input_mask: torch.Tensor,
        label_ids: torch.Tensor,
        label_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        document_offsets: torch.Tensor | None = None,
        num_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | TensorPointer]:
        """Return {"loss": fp32 scalar}.

        Args:
            input_ids, label_ids: int64 `[micro_batch_size, sequence_length]`.
            input_mask: bool, same shape; windows are never padded, so it is not looked at.
            label_mask: bool, same shape: which labels count.
            position_ids: int64, same shape, restarting at 0 with each document; None: no document masking.
            document_offsets: int32 `[documents + 1]`, where documents begin in the flattened micro-batch, and its end.
            num_labels: fp32 scalar that the sum of losses is divided by; None: the labels that label_mask keeps.
        """
        positions = self.model.positions(input_ids, position_ids, document_offsets)
        return {"loss": self.model(input_ids, label_ids, label_mask, positions, num_labels)}

    def tensor_shape(self, name: str, param: NanotronParameter) -> tuple[int, ...]:
        """Return the whole tensor's shape, padded rows of the vocabulary left out."""
        shape = tuple(int(n) for n in param.get_sharded_info().unsharded_shape) if param.is_sharded else param.shape
        return (self.options.vocab_size, *shape[1:]) if name in (EMBEDDING_NAME, LM_HEAD_NAME) else tuple(shape)

    @torch.no_grad()
    def init_model_randomly(self, config: Any) -> None:
        """Fill every parameter from (seed, name): normal(0, std), row-parallel outputs scaled down, norms 1.

        Args:
            config: the engine's configuration; `general.seed` and `model.init_method.std` are read.
        """
        prefixes = {id(module): f"{name}." if name else "" for name, module in self.named_modules()}
        std, seed = config.model.init_method.std, config.general.seed
        for local_name, param in self.named_parameters():
            # A tied copy carries the first one's name, so both start equal on whichever rank they live.
            name = (
                param.get_tied_info().get_full_name_from_module_id_to_prefix(prefixes) if param.is_tied else local_name
            )
            module = self.get_submodule(local_name.rpartition(".")[0])
            if isinstance(module, RMSNorm):
                param.fill_(1.0)
                continue
            is_output = isinstance(module, TensorParallelRowLinear)
            tensor_std = row_parallel_std(std, self.config.num_hidden_layers) if is_output else std
            _fill_shard(param, full_normal(self.tensor_shape(name, param), tensor_std, seed, name))

    def get_embeddings_lm_head_tied_names(self) -> list[str]:  # type: ignore[override]
        """Return the names of the two tied matrices, or nothing when they are separate."""
        return [EMBEDDING_NAME, LM_HEAD_NAME] if self.config.tie_word_embeddings else []

    def get_block_compute_costs(self) -> dict[type, int]:
        """Return multiply-adds per token of each kind of block, by which the engine divides the layers over pp."""
        c = self.config
        attention = 2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads) * c.hidden_size
        return {
            DecoderLayer: attention + 3 * c.intermediate_size * c.hidden_size,
            LanguageModelHead: c.vocab_size * c.hidden_size,
        }


def _fill_shard(param: NanotronParameter, full: torch.Tensor) -> None:
    """Copy this rank's slices of ``full`` into ``param``; rows beyond ``full`` (padded vocabulary) become zero."""
    if not param.is_sharded:
        param.copy_(full)
        return
    info = param.get_sharded_info()
    padded = full.new_zeros(tuple(int(n) for n in info.unsharded_shape))
    padded[tuple(slice(0, n) for n in full.shape)] = full
    for pair in info.local_global_slices_pairs:
        param[pair.local_slices] = padded[pair.global_slices].to(param.dtype).to(param.device)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
