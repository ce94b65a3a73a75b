"""The sides of benchmarks/train_step.py: our trainer, Nanotron 0.4's own, and transformers' Llama, one step each.

Every side trains the same shape on the same random tokens with bf16 arithmetic, fp32 gradients, fp32 master weights,
clipping at 1 and AdamW.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import yaml

from benchmarks.liger_loss import use_liger
from nanotron_zagreus.config import Config, load_config_text
from nanotron_zagreus.config.parsing import to_plain
from nanotron_zagreus.data.batch import MicroBatch, engine_batch
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu
from nanotron_zagreus.engine.launch import start_process_group
from nanotron_zagreus.resources import find_config

Step = Callable[[], torch.Tensor]
"""Runs one optimizer step and returns its loss, on the device."""

TINY = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 16384,
    "max_position_embeddings": 512,
}
"""For a CPU: the published proportions, except that the vocabulary weighs more."""

OURS: dict[str, dict[str, Any]] = {
    "ours": {"zagreus": {"compile_blocks": True}},
    "ours, blocks not compiled": {"zagreus": {"compile_blocks": False}},
    "ours, plain cross entropy": {"zagreus": {"compile_blocks": True, "cross_entropy": "plain"}},
    "ours, Liger's cross entropy": {"zagreus": {"compile_blocks": True}, "benchmark": "Liger"},
    "ours, attention as torch prefers": {"zagreus": {"compile_blocks": True, "attention": "sdpa"}},
    "ours, gradients one by one": {"zagreus": {"compile_blocks": True}, "benchmark": "gradients one by one"},
    "ours, AdamW not fused": {
        "zagreus": {"compile_blocks": True},
        "optimizer": {"optimizer_factory": {"torch_adam_is_fused": False}},
    },
}
"""Our side with everything on, and with one technique switched off at a time."""
PEERS = ("stock nanotron", "transformers, compiled")


def configuration(tiny: bool, micro_batch_size: int, accumulation: int, changes: dict[str, Any]) -> Config:
    """Return the published configuration on one rank, or its tiny relative."""
    data = copy.deepcopy(yaml.safe_load(find_config("smollm2/zagreus_350M_por.yaml").read_text(encoding="utf-8")))
    data["parallelism"] |= {"dp": 1, "tp_linear_async_communication": False}
    data["tokens"] |= {"micro_batch_size": micro_batch_size, "batch_accumulation_per_replica": accumulation}
    data["logging"] = {"log_level": "warning", "log_level_replica": "warning"}
    if tiny:
        data["model"]["model_config"] |= {**TINY, "bos_token_id": 1, "eos_token_id": 2}
        data["tokens"]["sequence_length"] = TINY["max_position_embeddings"]
    for section, values in changes.items():
        if section == "benchmark":
            continue
        for key, value in values.items():
            place = data.setdefault(section, {})
            place[key] = {**place.get(key, {}), **value} if isinstance(value, dict) else value
    return load_config_text(yaml.safe_dump(data), origin="benchmark")


def batches(config: Config, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the same random micro-batches for every side, over and over."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.tokens.micro_batch_size, config.tokens.sequence_length + 1)
    vocab_size = config.model.model_config.vocab_size
    windows = [torch.randint(0, vocab_size, shape, generator=generator, dtype=torch.int32) for _ in range(4)]
    return itertools.cycle([engine_batch(MicroBatch(tokens), device) for tokens in windows])


def build_ours(config: Config, variant: str | None) -> tuple[Step, Any]:
    """Return our trainer's step and the trainer."""
    bring_up()
    start_process_group()
    from nanotron_zagreus.training.trainer import ZagreusTrainer

    trainer = ZagreusTrainer(config)
    if variant == "gradients one by one":
        _restore_engine_gradients(trainer)
    if variant == "Liger":
        use_liger(trainer)
    data, count = batches(config, trainer.device), itertools.count(1)
    return lambda: trainer.run_step(next(count), data), trainer  # type: ignore[return-value]


def _restore_engine_gradients(trainer: Any) -> None:
    """Let gradients be added up and clipped parameter by parameter, as the engine does."""
    from nanotron.optim.clip_grads import clip_grad_norm

    for name in ("backward", "zero_grad", "step"):
        delattr(trainer.grad_accumulator, name)
    trainer.grad_accumulator.is_empty = False
    trainer.grad_accumulator.zero_grad()

    def clip(loss: torch.Tensor | None) -> torch.Tensor:
        named = trainer.unwrapped_model.get_named_params_with_correct_tied()
        return clip_grad_norm(
            mp_pg=trainer.parallel_context.mp_pg,
            named_parameters=[(name, param) for name, param in named if param.requires_grad],
            grad_accumulator=trainer.grad_accumulator,
            max_norm=trainer.run.optimizer.clip_grad,
        )

    trainer._clip_gradients = clip


def build_stock(config: Config) -> tuple[Step, Any, str]:
    """Return the step of Nanotron's own trainer with its own Llama, the trainer, and what serves its attention."""
    engine = bring_up("nanotron-0.4")
    start_process_group()
    from nanotron.config import LlamaConfig
    from nanotron.models.llama import LlamaForTraining
    from nanotron.trainer import DistributedTrainer

    from benchmarks.stock_llama import serve_flash_attn
    from nanotron_zagreus.engine.translation import engine_config_file

    attention = serve_flash_attn()
    known = {field.name for field in dataclasses.fields(LlamaConfig)}
    data = engine.translate(config)
    data["model"]["model_config"] = {k: v for k, v in data["model"]["model_config"].items() if k in known}
    with cuda_as_cpu(), engine_config_file(data) as path:
        trainer = DistributedTrainer(str(path), model_class=LlamaForTraining)
        trainer.pipeline_engine = trainer.config.parallelism.pp_engine
        trainer.pipeline_engine.nb_microbatches = trainer.n_micro_batches_per_batch
    model = trainer.unwrapped_model
    model.module_id_to_prefix = {id(m): f"{name}." if name else "" for name, m in model.named_modules()}
    trainer.iteration_step = 10  # it logs memory in the first five
    data_iterator = batches(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def step() -> torch.Tensor:
        with cuda_as_cpu():
            return trainer.training_step(data_iterator)[1]

    return step, trainer, attention


def build_transformers(config: Config) -> tuple[Step, Any]:
    """Return a step of transformers' LlamaForCausalLM: SDPA, the whole model compiled, fp32 weights under autocast.

    Its `sdpa` goes by another name: under that one a compiled model writes out the mask, which no causal kernel takes;
    for a name without a mask function it makes none.
    """
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("causal_sdpa", sdpa_attention_forward)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = set(LlamaConfig().to_dict())
    shape = {k: v for k, v in to_plain(config.model.model_config).items() if k in known and v is not None}
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="causal_sdpa")).float().to(device)
    compiled = torch.compile(model, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    data, accumulation = batches(config, device), config.tokens.batch_accumulation_per_replica

    def step() -> torch.Tensor:
        total = torch.zeros((), device=device)
        for _ in range(accumulation):
            batch = next(data)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                out = compiled(input_ids=batch["input_ids"], labels=batch["input_ids"], use_cache=False)
            (out.loss / accumulation).backward()
            total += out.loss.detach() / accumulation
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step, None


def build(
    side: str, tiny: bool, micro_batch_size: int, accumulation: int, attention: str = "auto"
) -> tuple[Step, Any, str, Config]:
    """Return a side's step, its trainer if it has one, its attention, and its configuration.

    ``attention`` is `zagreus.attention` of our sides that do not name their own.
    """
    changes = OURS.get(side, {})
    changes = {**changes, "zagreus": {"attention": attention, **changes.get("zagreus", {})}}
    config = configuration(tiny, micro_batch_size, accumulation, changes)
    if side == "stock nanotron":
        return *build_stock(config), config
    if side == "transformers, compiled":
        return *build_transformers(config), "sdpa", config
    step, trainer = build_ours(config, changes.get("benchmark"))
    return step, trainer, trainer.unwrapped_model.options.attention, config


def is_compiled(side: str, config: Config) -> tuple[str, bool]:
    """Return (what of a side ran compiled, whether that is all that should): asked after its first steps.

    Our regions go on uncompiled where they cannot be compiled; the peers fail.
    """
    if side == "stock nanotron":
        return ("norm and rotation" if torch.cuda.is_available() else "uncompiled"), True
    if side not in OURS:
        return "compiled", True
    from nanotron_zagreus.model.decoder import compiled_layer
    from nanotron_zagreus.model.logits_chunk import compiled_regions

    blocks_meant = config.compiles_blocks("cuda" if torch.cuda.is_available() else "cpu")
    by_liger = OURS[side].get("benchmark") == "Liger"
    chunks_meant = config.zagreus.cross_entropy == "chunked" and torch.cuda.is_available() and not by_liger
    blocks = blocks_meant and not compiled_layer().is_eager
    chunks = chunks_meant and not any(region.is_eager for region in compiled_regions())
    text = f"blocks {'compiled' if blocks else 'uncompiled'}"
    if chunks_meant:
        text += f", loss {'compiled' if chunks else 'uncompiled'}"
    if by_liger:
        text += f", loss by Liger {importlib.metadata.version('liger-kernel')}"
    return text, blocks == blocks_meant and chunks == chunks_meant
